"""Admission control: authenticate each call, queue up to a limit, reject the rest soon."""

import heapq
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import grpc

from encoder_service.rpc.access import REFLECTION_RPCS, Tokens
from encoder_service.rpc.calls import metadata_value, request_id_from
from encoder_service.rpc.metrics import Metrics
from encoder_service.rpc.pools import CallPool, Pool, StreamPool
from encoder_service.status import status_for
from encoder_service.v1 import encoder_pb2, gallery_pb2, search_pb2
from gallery.errors import LookalikeError

T = TypeVar("T")

# The RPCs of the service, and whether they are streams.
_IS_STREAM = {
    f"/{service.full_name}/{method.name}": method.client_streaming
    for file in (encoder_pb2, gallery_pb2, search_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
# Metadata that asks clients to retry after one second, if they read it.
_RETRY_AFTER = ("retry-after", "1")
# Range of the delay, in milliseconds, after which gRPC's own clients retry if they are configured to. It is random, so
# that rejected clients do not all return at once.
_PUSHBACK_MS = (50, 250)
# Range of the seconds after which an overloaded service rejects a call. A connection has eight calls in flight and
# holds back further ones, so that this slows down a client that calls again at once. Rejecting all calls of such a
# client would take a processor, which the accepted calls need. Longer delays would hide the overload from its detector.
_REJECTION_DELAY_S = (0.01, 0.03)
# Maximum concurrent reflection streams. A client needs one only briefly.
_MAX_REFLECTION_STREAMS = 4
# Maximum log lines per second about calls rejected for lack of a token or a role.
_MAX_REFUSAL_LINES = 5

_log = logging.getLogger(__name__)


class Admission(grpc.ServerInterceptor):
    """Interceptor that admits each call to a pool, or rejects it. Health checks bypass it.

    Attributes:
        pools: The pools of all calls that need admission.
    """

    def __init__(self, tokens: Tokens | None, calls: CallPool, streams: StreamPool, metrics: Metrics) -> None:
        """Create the interceptor.

        Args:
            tokens: The accepted tokens; None accepts every caller.
            calls: Pool for calls with one request and one response.
            streams: Pool for streams.
            metrics: Counts the rejected calls.
        """
        self._tokens = tokens
        reflection = StreamPool(_MAX_REFLECTION_STREAMS, "reflection streams")
        self._pools: dict[str, Pool] = {method: streams if _IS_STREAM[method] else calls for method in _IS_STREAM}
        self._pools.update(dict.fromkeys(REFLECTION_RPCS, reflection))
        self.pools: tuple[Pool, ...] = (calls, streams, reflection)
        self._metrics = metrics
        self._refusals = _Refusals()
        self.delayed = DelayedExecutor()
        self._is_closed = False

    def stop(self) -> None:
        """End the threads, once all calls have ended."""
        for pool in self.pools:
            pool.shutdown()

    def close(self) -> None:
        """Reject new calls with UNAVAILABLE, so that clients retry on another server."""
        self._is_closed = True

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Choose the pool for a call, or reject it. Must be fast, because one thread runs this for all gRPC calls."""
        self.delayed.run_due()
        method = str(details.method)
        pool = self._pools.get(method)
        if pool is None:
            return continuation(details)
        if self._is_closed:
            return self._reject(details, grpc.StatusCode.UNAVAILABLE, "the service is shutting down: retry later")
        try:
            if self._tokens:
                self._tokens.check(method, metadata_value("authorization", details.invocation_metadata))
        except LookalikeError as error:
            return self._reject(details, status_for(type(error)), error.message, refusals=self._refusals)
        if not pool.admits(method):
            message = f"the service has {pool.in_flight} {pool.kind} in flight, its limit for now: retry soon"
            pushback = ("grpc-retry-pushback-ms", str(random.randint(*_PUSHBACK_MS)))
            trailing = (_RETRY_AFTER, pushback)
            return self._reject(details, grpc.StatusCode.RESOURCE_EXHAUSTED, message, trailing, self.delayed)
        handler = continuation(details)
        if handler.request_streaming:
            return handler._replace(stream_stream=run_in(pool, handler.stream_stream))
        return handler._replace(unary_unary=run_in(pool, handler.unary_unary))

    def _reject(
        self,
        details: grpc.HandlerCallDetails,
        status: grpc.StatusCode,
        message: str,
        trailing: tuple[tuple[str, str], ...] = (),
        executor: ThreadPoolExecutor | None = None,
        refusals: "_Refusals | None" = None,
    ) -> Any:
        """Return a handler that rejects a call, stream or not, without reading its request."""

        def reject(requests: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            self._metrics.rejected(str(details.method), status.name)
            request_id = request_id_from(details.invocation_metadata)
            if refusals:
                refusals.log(str(details.method), context.peer(), status.name, request_id)
            context.set_trailing_metadata((("x-request-id", request_id), *trailing))
            context.abort(status, message)

        return grpc.stream_stream_rpc_method_handler(run_in(executor or _INLINE, reject))


class _Refusals:
    """Logs rejected callers, at most a few lines per second, because untrusted clients can make any number of calls."""

    def __init__(self) -> None:
        self._second = 0
        self._lines = self._omitted = 0

    def log(self, method: str, peer: str, status: str, request_id: str) -> None:
        """Log a rejected call. gRPC's thread and HTTP's run this. A race between them costs at most a few lines."""
        second = int(time.monotonic())
        if second != self._second:
            if self._omitted:
                _log.warning("%d more calls were rejected", self._omitted)
            self._second, self._lines, self._omitted = second, 0, 0
        if self._lines < _MAX_REFUSAL_LINES:
            self._lines += 1
            _log.warning("%s from %s was rejected: %s", method, peer, status, extra={"request_id": request_id})
        else:
            self._omitted += 1


class DelayedExecutor(ThreadPoolExecutor):
    """Runs each submitted function after a short delay, in the thread that calls `run_due`. It starts no thread.

    The delays are random, so that clients rejected together do not retry together.
    """

    def __init__(self) -> None:
        """Begin with an empty queue."""
        super().__init__(1)
        self._waiting: list[tuple[float, int, Callable[[], Any]]] = []  # a heap ordered by due time
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        """Run the work later, and discard its result."""
        due = time.monotonic() + random.uniform(*_REJECTION_DELAY_S)
        with self._lock:
            run: Callable[[], Any] = partial(work, *arguments, **named)
            heapq.heappush(self._waiting, (due, next(self._numbers), run))
        return Future()

    def run_due(self) -> None:
        """Run the functions that are due."""
        while self._waiting and self._waiting[0][0] < time.monotonic():
            with self._lock:
                work = heapq.heappop(self._waiting)[2] if self._waiting else None
            if work:
                work()


class _InlineExecutor(ThreadPoolExecutor):
    """Runs the work in the thread that submits it."""

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        future: Future[T] = Future()
        future.set_result(work(*arguments, **named))
        return future


_INLINE = _InlineExecutor()


def run_in(executor: ThreadPoolExecutor, behaviour: Callable[[Any, Any], T]) -> Callable[[Any, Any], T]:
    """Return a behaviour that gRPC runs in this executor."""

    def run(request: Any, context: grpc.ServicerContext) -> T:
        return behaviour(request, context)

    run.experimental_thread_pool = executor  # type: ignore[attr-defined] # gRPC looks for it under this name
    return run
