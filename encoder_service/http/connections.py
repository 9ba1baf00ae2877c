"""HTTP connections, whose number and idle time are limited: uvicorn limits neither before a request has arrived."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# Maximum connections. A browser opens up to six. A further connection ends the one that has been idle longest.
_MAX_CONNECTIONS = 256
# Seconds that a connection may be idle, the time included in which a request's headers arrive.
_MAX_IDLE_S = 10.0
# Seconds between checks whether a connection is idle.
_CHECK_S = 2.0


class Connection(H11Protocol):
    """One connection. Requests find the function that closes it at once as `request.state.abort`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Begin, and make room for this connection if there are too many."""
        super().connection_made(transport)
        self.app_state = {"abort": transport.abort}
        self._idle_since = self.loop.time()
        self._check = self.loop.call_later(_CHECK_S, self._end_if_idle)
        if len(self.connections) > _MAX_CONNECTIONS:
            others = [other for other in self.connections if isinstance(other, Connection) and other._is_idle]
            min(others, key=lambda other: other._idle_since).transport.abort()  # this connection is idle, too

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._check.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begin to be idle."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Reject the upgrade, which no route offers."""
        self.send_400_response("Unsupported upgrade request.")

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _end_if_idle(self) -> None:
        if self._is_idle and self.loop.time() - self._idle_since > _MAX_IDLE_S:
            self.transport.abort()
        else:
            self._check = self.loop.call_later(_CHECK_S, self._end_if_idle)
