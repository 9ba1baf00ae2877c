"""The health service, grpc.health.v1.Health. It answers without a token, and even during overload.

It replaces gRPC's own implementation, which is unsafe with untrusted clients: that one parses requests of any size,
holds a lock while it waits for a slow client to read, and logs a traceback for a malformed request.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from encoder_service.errors import RequestError
from encoder_service.rpc.admission import run_in
from encoder_service.rpc.codec import Codec
from encoder_service.rpc.pools import HealthPool

NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
"""Full name of the health service."""

# Maximum concurrent calls of Watch. Each takes a thread, and untrusted clients may call it.
_MAX_WATCHERS = 32

_Response = health_pb2.HealthCheckResponse
_ListResponse: Any = health_pb2.HealthListResponse  # type: ignore[attr-defined] # missing in the type stubs
_codec = Codec(f"{NAME}/Check", health_pb2.HealthCheckRequest.FromString, _Response.SerializeToString)


class Health:
    """Tracks the health of a fixed set of names, and serves it over gRPC.

    The set is fixed because a client could otherwise exhaust memory by watching made-up names.

    Attributes:
        pool: The threads that receive the requests.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Begin with all names NOT_SERVING."""
        self.pool = HealthPool()
        self._watchers = ThreadPoolExecutor(_MAX_WATCHERS, thread_name_prefix="watchers")
        self._watcher_count = 0
        self._statuses: dict[str, Any] = dict.fromkeys(names, _Response.NOT_SERVING)
        self._changed = threading.Condition()
        self._is_closing = False
        self._are_watches_over = False

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the gRPC handler of all RPCs of the health service."""

        def unary(answer: Callable[[bytes, grpc.ServicerContext], bytes]) -> Any:
            return grpc.unary_unary_rpc_method_handler(run_in(self.pool, answer))

        def watch(content: bytes, context: grpc.ServicerContext, send: Callable[[bytes | None], None]) -> None:
            self._watch(content, context, send)

        watch.experimental_non_blocking = True  # type: ignore[attr-defined] # gRPC reads these two attributes
        watch.experimental_thread_pool = self.pool  # type: ignore[attr-defined]
        return grpc.method_handlers_generic_handler(
            NAME,
            {
                "Check": unary(self._check),
                "List": unary(self._list),
                "Watch": grpc.unary_stream_rpc_method_handler(watch),
            },
        )

    def set(self, name: str, serving: bool) -> None:
        """Change the health of a name, unless the service is shutting down."""
        with self._changed:
            if not self._is_closing:
                self._statuses[name] = _Response.SERVING if serving else _Response.NOT_SERVING
                self._changed.notify_all()

    def enter_shutdown(self) -> None:
        """Report NOT_SERVING for all names from now on."""
        with self._changed:
            self._statuses = dict.fromkeys(self._statuses, _Response.NOT_SERVING)
            self._is_closing = True
            self._changed.notify_all()

    def end_watches(self) -> None:
        """End all calls of Watch."""
        with self._changed:
            self._are_watches_over = True
            self._changed.notify_all()

    def close(self) -> None:
        """Wait until all calls have ended, and end the threads."""
        self.pool.shutdown()
        self._watchers.shutdown()

    def _check(self, content: bytes, context: grpc.ServicerContext) -> bytes:
        status = self._statuses.get(self._name(content, context))
        if status is None:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details(f"expected one of {', '.join(map(repr, self._statuses))}")
            return b""
        return _codec.serialize(_Response(status=status))

    def _list(self, content: bytes, context: grpc.ServicerContext) -> bytes:
        # List uses no name, but reading it also records that the request has arrived, and rejects a malformed request
        self._name(content, context)
        statuses = {name: _Response(status=status) for name, status in self._statuses.items()}
        response: bytes = _ListResponse(statuses=statuses).SerializeToString()
        return response

    def _watch(self, content: bytes, context: grpc.ServicerContext, send: Callable[[bytes | None], None]) -> None:
        """Send the health of a name now and whenever it changes. For an unknown name, send one answer and end."""
        name = self._name(content, context)
        with self._changed:
            if self._watcher_count == _MAX_WATCHERS:
                context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{_MAX_WATCHERS} clients call Watch, which is the limit: call Check instead",
                )
            self._watcher_count += 1
        context.add_callback(self._wake)
        self._watchers.submit(self._report, name, context, send).add_done_callback(self._forget)

    def _report(self, name: str, context: grpc.ServicerContext, send: Callable[[bytes | None], None]) -> None:
        last: int | None = None
        while context.is_active():
            with self._changed:
                while (status := self._status(name)) == last and context.is_active() and not self._are_watches_over:
                    self._changed.wait()
            if status != last:
                send(_codec.serialize(_Response(status=status)))
                last = status
            if status == _Response.SERVICE_UNKNOWN or self._are_watches_over:
                send(None)

    def _status(self, name: str) -> Any:
        return self._statuses.get(name, _Response.SERVICE_UNKNOWN)

    def _name(self, content: bytes, context: grpc.ServicerContext) -> str:
        """Return the name in a request. If the request is malformed, end the call with an error."""
        self.pool.arrived()
        try:
            return str(_codec.parse(content).service)
        except RequestError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _forget(self, future: "Future[None]") -> None:
        with self._changed:
            self._watcher_count -= 1
