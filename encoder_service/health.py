"""Health as grpc.health.v1 has it, for a fixed set of names."""

from collections.abc import Callable, Iterable
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import HealthServicer


class Health(HealthServicer):
    """Answers for its own names alone: of others it keeps nothing, or a stranger could fill the memory with them."""

    def __init__(self, names: Iterable[str]) -> None:
        """Take the names that will be told of."""
        super().__init__()
        self._names = frozenset(names)

    def Watch(  # noqa: N802 (the protocol names it)
        self, request: Any, context: Any, send_response_callback: Callable[[Any], None] | None = None
    ) -> Any:
        """Tell of a name now and whenever it changes; of one that is not known, once."""
        if request.service in self._names or send_response_callback is None:
            return super().Watch(request, context, send_response_callback)
        send_response_callback(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN))
        send_response_callback(None)
        return None
