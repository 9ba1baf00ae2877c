"""Admission control: authenticate each call, queue up to a limit, reject the rest immediately.

An overloaded service that kept a long queue would answer every call in it late. So the queue is kept short until the
overload is over, as in "Fail at Scale" (B. Maurer, ACM Queue 13, 2015).
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

# The RPCs that need admission, and whether they are streams: those of the service, and reflection. Health is exempt.
_IS_STREAM = {
    f"/{service.full_name}/{method.name}": method.client_streaming
    for file in (encoder_pb2, gallery_pb2, search_pb2, reflection_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
# Seconds after which an overload is judged again by the calls that have arrived since.
_WINDOW_S = 1.0
# Seconds for which a pool may be more than half full before that counts as overload: long enough for one burst.
_MAX_CROWDED_S = 0.1
# Seconds, for clients that read this header.
_RETRY_AFTER = ("retry-after", "1")
# Range of the delay, in milliseconds, after which gRPC's own clients retry if they are configured to. It is random, so
# that rejected clients do not all return at once.
_PUSHBACK_MS = (50, 250)


class OverloadDetector:
    """Decides which calls are admitted, and admits fewer while the service is overloaded.

    Overload begins when an arriving call finds the limit reached, or more than half of the limit in flight for 0.1 s.
    It is judged again every second, and lasts while more than half of the calls that arrived in that second were
    rejected.
    """

    def __init__(
        self, limit: int, overload_limit: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin without overload.

        Args:
            limit: Maximum calls in flight.
            overload_limit: Maximum calls in flight during overload, cut to between 1 and half of `limit`; None for
                `limit`.
            clock: Returns the time in seconds.
        """
        self._limit = limit
        self._overload_limit = limit if overload_limit is None else max(1, min(overload_limit, limit // 2))
        self._clock = clock
        self._window_ends = math.inf
        self._crowded_since = math.inf
        self._arrived = self._rejected = 0
        self._is_overloaded = False

    def admits(self, in_flight: int) -> bool:
        """Count an arriving call, and return whether it is admitted.

        Args:
            in_flight: Calls in flight, without this one.
        """
        now = self._clock()
        if now >= self._window_ends:
            self._end_window(now)
        self._crowded_since = min(self._crowded_since, now) if 2 * in_flight > self._limit else math.inf
        if in_flight >= self._limit or now - self._crowded_since > _MAX_CROWDED_S:
            self._begin_overload(now)
        admitted = in_flight < (self._overload_limit if self._is_overloaded else self._limit)
        self._arrived += 1
        self._rejected += not admitted
        return admitted

    def _begin_overload(self, now: float) -> None:
        if not self._is_overloaded:
            self._is_overloaded = True
            self._begin_window(now)

    def _end_window(self, now: float) -> None:
        """Keep the overload up for another window, or end it; it also ends if no call arrived for a whole window."""
        self._is_overloaded = now < self._window_ends + _WINDOW_S and 2 * self._rejected > self._arrived
        if self._is_overloaded:
            self._begin_window(now)
        else:
            self._window_ends = math.inf

    def _begin_window(self, now: float) -> None:
        self._window_ends = now + _WINDOW_S
        self._arrived = self._rejected = 0


class CallPool(ThreadPoolExecutor):
    """One thread for each call in flight. `CallInterceptor` limits how many of them execute at once."""

    def __init__(self, limit: int, kind: str, overload_limit: int | None = None) -> None:
        """Begin without calls.

        Args:
            limit: Maximum calls in flight, queued ones included.
            kind: The kind of call, for messages: "calls" or "streams".
            overload_limit: Maximum calls in flight during overload; None for `limit`.
        """
        super().__init__(limit, thread_name_prefix=kind)
        self.kind = kind
        self.in_flight = 0
        self._detector = OverloadDetector(limit, overload_limit)
        self._counting = threading.Lock()

    def admits(self) -> bool:
        """Count an arriving call, and return whether it is admitted."""
        return self._detector.admits(self.in_flight)

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        """Execute a call in a thread, and count it as in flight until it has ended."""
        with self._counting:
            self.in_flight += 1
        future = super().submit(work, *arguments, **named)
        future.add_done_callback(self._leave)
        return future

    def _leave(self, future: "Future[Any]") -> None:
        with self._counting:
            self.in_flight -= 1


class Admission(grpc.ServerInterceptor):
    """Interceptor that admits each call to a pool, or rejects it. Health checks bypass it."""

    def __init__(self, tokens: Tokens | None, calls: CallPool, streams: CallPool, metrics: Metrics) -> None:
        """Take the parts.

        Args:
            tokens: The accepted tokens; None accepts every caller.
            calls: Pool for calls with one request and one response.
            streams: Pool for streams.
            metrics: Counts the rejected calls.
        """
        self._tokens = tokens
        self._calls = calls
        self._streams = streams
        self._metrics = metrics
        self._is_closed = False

    def close(self) -> None:
        """Reject new calls with UNAVAILABLE, so that clients retry on another server."""
        self._is_closed = True

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Choose the pool for a call, or reject it. Must be fast, because one thread runs this for all calls."""
        method = str(details.method)
        if method not in _IS_STREAM:
            return continuation(details)
        if self._is_closed:
            return self._reject(details, grpc.StatusCode.UNAVAILABLE, "the service is shutting down: retry later")
        try:
            if self._tokens:
                self._tokens.check(method, metadata_value("authorization", details.invocation_metadata))
        except LookalikeError as error:
            return self._reject(details, status_for(type(error)), error.message)
        pool = self._streams if _IS_STREAM[method] else self._calls
        if not pool.admits():
            message = f"the service has {pool.in_flight} {pool.kind} in flight, its limit for now: retry soon"
            pushback = ("grpc-retry-pushback-ms", str(random.randint(*_PUSHBACK_MS)))
            return self._reject(details, grpc.StatusCode.RESOURCE_EXHAUSTED, message, _RETRY_AFTER, pushback)
        handler = continuation(details)
        if handler.request_streaming:
            return handler._replace(stream_stream=_run_in(pool, handler.stream_stream))
        return handler._replace(unary_unary=_run_in(pool, handler.unary_unary))

    def _reject(
        self, details: grpc.HandlerCallDetails, status: grpc.StatusCode, message: str, *trailing: tuple[str, str]
    ) -> Any:
        """Return a handler that rejects a call, stream or not, without reading its request."""

        def reject(requests: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            self._metrics.rejected(str(details.method), status.name)
            context.set_trailing_metadata((("x-request-id", request_id_from(details.invocation_metadata)), *trailing))
            context.abort(status, message)

        return grpc.stream_stream_rpc_method_handler(_run_in(_INLINE, reject))


class _InlineExecutor(ThreadPoolExecutor):
    """Runs the work in the thread that submits it."""

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        future: Future[T] = Future()
        future.set_result(work(*arguments, **named))
        return future


_INLINE = _InlineExecutor()


def _run_in(executor: ThreadPoolExecutor, behaviour: Callable[[Any, Any], T]) -> Callable[[Any, Any], T]:
    """Return a behaviour that gRPC runs in this executor."""

    def run(request: Any, context: grpc.ServicerContext) -> T:
        return behaviour(request, context)

    run.experimental_thread_pool = executor  # type: ignore[attr-defined] # gRPC looks for it under this name
    return run
