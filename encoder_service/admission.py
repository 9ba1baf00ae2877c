"""Which calls are let in: a line for as many as may be under way, and a refusal at once for what is too much.

In a rush, when more come than there is room for, all that wait in a long line would be answered late. So the line is
kept short until the rush is over, as in "Fail at Scale" (B. Maurer, ACM Queue 13, 2015).
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
from grpc_reflection.v1alpha import reflection_pb2

from encoder_service.calls import id_of
from encoder_service.metrics import Metrics
from encoder_service.v1 import encoder_pb2, gallery_pb2, search_pb2

T = TypeVar("T")
_Metadata = Iterable[tuple[str, str | bytes]]

# What needs a place: all RPCs of the service, and reflection. Health needs none.
_IS_STREAM = {
    f"/{service.full_name}/{method.name}": method.client_streaming
    for file in (encoder_pb2, gallery_pb2, search_pb2, reflection_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
_RUSH_S = 1.0
_RETRY_AFTER = ("retry-after", "1")
# gRPC's own clients wait so long if they are set to try again; at random, or all would come back at once.
_PUSHBACK_MS = (50, 250)


class Room(ThreadPoolExecutor):
    """Threads that do calls, and a line of those that wait for one.

    A thread for each would be slower: most of a call is Python, which one thread at a time can run.
    """

    def __init__(self, most: int, threads: int, in_rush: int, what: str) -> None:
        """Make room.

        Args:
            most: How many calls may be under way, those in line counted.
            threads: How many are worked on at once.
            in_rush: How many may be under way when more than `most` have come within the last second.
            what: What they are: "calls".
        """
        self._most = most
        self._in_rush = max(1, min(in_rush, most // 2))
        super().__init__(min(threads, most), thread_name_prefix=what)
        self._what = what
        self._taken = 0
        self._rush_ends = 0.0
        self._counting = threading.Lock()

    def refusal(self) -> str:
        """Return why one more call is turned away; empty where there is room."""
        now = time.monotonic()
        most = self._in_rush if now < self._rush_ends else self._most
        if self._taken < most:
            return ""
        self._rush_ends = now + _RUSH_S
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

    def __init__(self, calls: Room, streams: Room, metrics: Metrics) -> None:
        """Take the rooms of calls with one answer and of streams."""
        self._calls = calls
        self._streams = streams
        self._metrics = metrics

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Choose the threads that handle a call. This runs in the server's only thread for all calls: it is quick."""
        method = str(details.method)
        if method not in _IS_STREAM:
            return continuation(details)
        room = self._streams if _IS_STREAM[method] else self._calls
        why = room.refusal()
        if why:
            return grpc.stream_stream_rpc_method_handler(self._refusing(why, method, details.invocation_metadata))
        handler = continuation(details)
        if handler.request_streaming:
            return handler._replace(stream_stream=_in(room, handler.stream_stream))
        return handler._replace(unary_unary=_in(room, handler.unary_unary))

    def _refusing(self, why: str, method: str, metadata: _Metadata) -> Callable[[Any, Any], Iterator[bytes]]:
        """Return what refuses a call without reading its request, be it a stream or not."""

        def refuse(requests: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            self._metrics.turned_away(method)
            pushback = ("grpc-retry-pushback-ms", str(random.randint(*_PUSHBACK_MS)))
            context.set_trailing_metadata((("x-request-id", id_of(metadata)), _RETRY_AFTER, pushback))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, why)

        return _in(_HERE, refuse)


class _Here(ThreadPoolExecutor):
    """Does the work in the thread that brings it."""

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        done: Future[T] = Future()
        done.set_result(work(*arguments, **named))
        return done


_HERE = _Here()


def _in(threads: ThreadPoolExecutor, behaviour: Callable[[Any, Any], T]) -> Callable[[Any, Any], T]:
    """Have gRPC run a behaviour in these threads."""

    def run(request: Any, context: grpc.ServicerContext) -> T:
        return behaviour(request, context)

    run.experimental_thread_pool = threads  # type: ignore[attr-defined] # gRPC looks for it under this name
    return run
