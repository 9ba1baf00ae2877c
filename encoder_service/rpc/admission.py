"""Which calls are let in: who may call, a line for as many as there is room for, and a refusal at once for the rest.

In a rush, when more come than there is room for, all that wait in a long line would be answered late. So the line is
kept short until the rush is over, as in "Fail at Scale" (B. Maurer, ACM Queue 13, 2015).
"""

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
from grpc_reflection.v1alpha import reflection_pb2

from encoder_service.rpc.access import Tokens
from encoder_service.rpc.calls import metadata_value, request_id_from
from encoder_service.rpc.metrics import Metrics
from encoder_service.status import status_for
from encoder_service.v1 import encoder_pb2, gallery_pb2, search_pb2
from gallery.errors import LookalikeError

T = TypeVar("T")

# What needs a place: all RPCs of the service, and reflection. Health needs none.
_IS_STREAM = {
    f"/{service.full_name}/{method.name}": method.client_streaming
    for file in (encoder_pb2, gallery_pb2, search_pb2, reflection_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
_RUSH_S = 1.0
# A line longer than half of what there is room for is a rush, too, when it lasts: then it is not one burst.
_CROWDED_S = 0.1
_RETRY_AFTER = ("retry-after", "1")
# gRPC's own clients wait so long if they are set to try again; at random, or all would come back at once.
_PUSHBACK_MS = (50, 250)


class CallPool(ThreadPoolExecutor):
    """A thread for each call that may be under way. Which of them are worked on is for `Calls` to say."""

    def __init__(self, most: int, what: str, in_rush: int | None = None) -> None:
        """Make room.

        Args:
            most: How many calls may be under way.
            what: What they are: "calls".
            in_rush: How many may be in a rush, which begins when more than `most` have come or more than half of them
                for a while, and goes on for as long as most of those that come are turned away; None for no such
                thing.
        """
        super().__init__(most, thread_name_prefix=what)
        self._most = most
        self._in_rush = most if in_rush is None else max(1, min(in_rush, most // 2))
        self._what = what
        self._taken = 0
        self._rush_ends = 0.0
        self._crowded_since = math.inf
        self._came = self._turned_away = 0
        self._counting = threading.Lock()

    @property
    def is_empty(self) -> bool:
        """Whether no call is under way."""
        return not self._taken

    def refusal(self) -> str:
        """Count one more call that has come; return why it is turned away, or nothing where there is room."""
        now = time.monotonic()
        if now >= self._rush_ends:
            goes_on = now < self._rush_ends + _RUSH_S and 2 * self._turned_away > self._came
            self._rush_ends = now + _RUSH_S if goes_on else 0.0
            self._came = self._turned_away = 0
        self._crowded_since = min(self._crowded_since, now) if 2 * self._taken > self._most else math.inf
        if self._taken >= self._most or now - self._crowded_since > _CROWDED_S:
            self._rush_ends = self._rush_ends or now + _RUSH_S
        self._came += 1
        if self._taken < (self._in_rush if self._rush_ends else self._most):
            return ""
        self._turned_away += 1
        return f"the service has {self._taken} {self._what} under way, its most just now: try again soon"

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        """Count a call until it has ended, and let a thread do it."""
        with self._counting:
            self._taken += 1
        done = super().submit(work, *arguments, **named)
        done.add_done_callback(self._leave)
        return done

    def _leave(self, done: "Future[Any]") -> None:
        with self._counting:
            self._taken -= 1


class Admission(grpc.ServerInterceptor):
    """Gives each call a place in a room, or turns it away. Health is answered to any prober, however busy it is."""

    def __init__(self, tokens: Tokens | None, calls: CallPool, streams: CallPool, metrics: Metrics) -> None:
        """Take the parts.

        Args:
            tokens: Says who may call; None lets anybody.
            calls: CallPool for calls with one answer.
            streams: CallPool for streams.
            metrics: Counts what is turned away.
        """
        self._tokens = tokens
        self._calls = calls
        self._streams = streams
        self._metrics = metrics
        self._ends = False

    def close(self) -> None:
        """Let nobody in any more, and say so in a way that clients take as a wish to go elsewhere."""
        self._ends = True

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Choose the threads that handle a call. This runs in the server's only thread for all calls: it is quick."""
        method = str(details.method)
        if method not in _IS_STREAM:
            return continuation(details)
        if self._ends:
            return self._refusal(details, grpc.StatusCode.UNAVAILABLE, "the service is ending: ask again in a while")
        try:
            if self._tokens:
                self._tokens.check(method, metadata_value("authorization", details.invocation_metadata))
        except LookalikeError as error:
            return self._refusal(details, status_for(type(error)), str(error))
        room = self._streams if _IS_STREAM[method] else self._calls
        why = room.refusal()
        if why:
            pushback = ("grpc-retry-pushback-ms", str(random.randint(*_PUSHBACK_MS)))
            return self._refusal(details, grpc.StatusCode.RESOURCE_EXHAUSTED, why, _RETRY_AFTER, pushback)
        handler = continuation(details)
        if handler.request_streaming:
            return handler._replace(stream_stream=_run_in(room, handler.stream_stream))
        return handler._replace(unary_unary=_run_in(room, handler.unary_unary))

    def _refusal(
        self, details: grpc.HandlerCallDetails, status: grpc.StatusCode, why: str, *trailing: tuple[str, str]
    ) -> Any:
        """Return a handler that refuses a call without reading its request, be it a stream or not."""

        def refuse(requests: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            self._metrics.turned_away(str(details.method), status.name)
            context.set_trailing_metadata((("x-request-id", request_id_from(details.invocation_metadata)), *trailing))
            context.abort(status, why)

        return grpc.stream_stream_rpc_method_handler(_run_in(_INLINE, refuse))


class _InlineExecutor(ThreadPoolExecutor):
    """Does the work in the thread that brings it."""

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        done: Future[T] = Future()
        done.set_result(work(*arguments, **named))
        return done


_INLINE = _InlineExecutor()


def _run_in(threads: ThreadPoolExecutor, behaviour: Callable[[Any, Any], T]) -> Callable[[Any, Any], T]:
    """Have gRPC run a behaviour in these threads."""

    def run(request: Any, context: grpc.ServicerContext) -> T:
        return behaviour(request, context)

    run.experimental_thread_pool = threads  # type: ignore[attr-defined] # gRPC looks for it under this name
    return run
