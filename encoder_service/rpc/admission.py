"""Admission control: authenticate each call, queue calls up to a limit, and reject further calls."""

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
from gallery.plurals import counted

T = TypeVar("T")

# By the full name of each RPC: whether it is a stream.
_IS_STREAM = {
    f"/{service.full_name}/{method.name}": method.client_streaming
    for file in (encoder_pb2, gallery_pb2, search_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
# Metadata that asks a rejected client to retry after one second. Clients must read it themselves.
_RETRY_AFTER = ("retry-after", "1")
# Range, in milliseconds, of the delay before a retry by gRPC itself, which clients can configure. The delay is random,
# so that rejected clients do not all retry at once.
_PUSHBACK_MS = (50, 250)
# Range, in seconds, of the delay with which an overloaded service rejects a call. A client that calls again at once
# could otherwise keep a whole processor busy with rejections. The delay slows it down, because each connection may have
# only eight calls in flight. With longer delays, fewer rejections per second would make `OverloadDetector` end the
# overload too early.
_REJECTION_DELAY_S = (0.01, 0.03)
# Maximum concurrent reflection streams. A client needs such a stream only briefly.
_MAX_REFLECTION_STREAMS = 4
# Maximum log lines per second about calls with no valid token, or with a token that does not permit the RPC.
_MAX_REFUSAL_LINES = 5

_log = logging.getLogger(__name__)


class Admission(grpc.ServerInterceptor):
    """Interceptor that admits each call to a thread pool or rejects it. Health checks bypass it.

    Attributes:
        pools: The thread pools of all calls that need admission.
        delayed: Runs rejections of an overloaded service after a short delay.
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
        """Wait until all calls have ended, and end the threads of the pools."""
        for pool in self.pools:
            pool.shutdown()

    def close(self) -> None:
        """Reject new calls with UNAVAILABLE, so that clients retry on another server."""
        self._is_closed = True

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Admit a call to its pool, or reject it. This must be fast: a single thread runs it for all gRPC calls."""
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
        """Return a handler that rejects a call or a stream without reading its request."""

        def reject(requests: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            self._metrics.rejected(str(details.method), status.name)
            request_id = request_id_from(details.invocation_metadata)
            if refusals:
                refusals.log(str(details.method), context.peer(), status.name, request_id)
            context.set_trailing_metadata((("x-request-id", request_id), *trailing))
            context.abort(status, message)

        return grpc.stream_stream_rpc_method_handler(run_in(executor or _INLINE, reject))


class _Refusals:
    """Logs unauthorised calls, at most five lines per second, so that untrusted clients can't flood the log."""

    def __init__(self) -> None:
        self._second = 0
        self._lines = self._omitted = 0

    def log(self, method: str, peer: str, status: str, request_id: str) -> None:
        """Log a rejected call. gRPC's and HTTP's threads call this. A race between them loses a few lines at most."""
        second = int(time.monotonic())
        if second != self._second:
            if self._omitted:
                _log.warning("rejected %s", counted(self._omitted, "more call"))
            self._second, self._lines, self._omitted = second, 0, 0
        if self._lines < _MAX_REFUSAL_LINES:
            self._lines += 1
            _log.warning("%s from %s was rejected: %s", method, peer, status, extra={"request_id": request_id})
        else:
            self._omitted += 1


class DelayedExecutor(ThreadPoolExecutor):
    """Holds each submitted function for a short delay. Then the next call of `run_due` runs it, in the caller's thread.

    This class starts no threads of its own. The delays are random, so that clients that are rejected at the same time
    do not all retry at the same time.
    """

    def __init__(self) -> None:
        """Begin with an empty queue."""
        super().__init__(1)
        self._waiting: list[tuple[float, int, Callable[[], Any]]] = []  # a heap ordered by due time
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        """Queue a function for `run_due`. Its result is discarded."""
        due = time.monotonic() + random.uniform(*_REJECTION_DELAY_S)
        with self._lock:
            run: Callable[[], Any] = partial(work, *arguments, **named)
            heapq.heappush(self._waiting, (due, next(self._numbers), run))
        return Future()

    def run_due(self) -> None:
        """Run the queued functions whose delay has passed."""
        while self._waiting and self._waiting[0][0] < time.monotonic():
            with self._lock:
                work = heapq.heappop(self._waiting)[2] if self._waiting else None
            if work:
                work()


class _InlineExecutor(ThreadPoolExecutor):
    """Runs each submitted function at once, in the thread that submits it."""

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        future: Future[T] = Future()
        future.set_result(work(*arguments, **named))
        return future


_INLINE = _InlineExecutor()


def run_in(executor: ThreadPoolExecutor, behaviour: Callable[[Any, Any], T]) -> Callable[[Any, Any], T]:
    """Wrap the function of an RPC's handler, so that gRPC runs it in the given executor."""

    def run(request: Any, context: grpc.ServicerContext) -> T:
        return behaviour(request, context)

    run.experimental_thread_pool = executor  # type: ignore[attr-defined] # an attribute that gRPC reads
    return run
