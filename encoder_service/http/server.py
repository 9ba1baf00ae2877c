"""The HTTP server: sockets, and a thread with uvicorn's event loop."""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Sequence

import uvicorn
from starlette.types import ASGIApp

from encoder_service.errors import ServiceError
from encoder_service.http.connections import Connection

# Seconds between checks whether the event loop has started.
_POLL_S = 0.01
# Minimum seconds in which connections may end: uvicorn looks for ended ones every 0.1 s.
_MIN_GRACE_S = 0.2
# Connections that wait to be accepted.
_BACKLOG = 128


class HttpServer:
    """Serves an ASGI application on one port.

    Attributes:
        port: The port that it listens on.
    """

    def __init__(
        self,
        app: ASGIApp,
        addresses: Sequence[str],
        port: int,
        tls: ssl.SSLContext | None = None,
        reuse_port: bool = False,
    ) -> None:
        """Bind the port. No request is answered yet.

        Args:
            app: Answers the requests.
            addresses: Addresses to listen on, IPv4 and IPv6 without brackets.
            port: Port to listen on; 0 picks a free one.
            tls: Settings for HTTPS; None for HTTP.
            reuse_port: Let other processes of the same user, which ask for it too, listen on the same port.

        Raises:
            ServiceError: The port can't be bound.
        """
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of every malformed request
        self._sockets: list[socket.socket] = []
        for address in addresses:
            self._sockets.append(_bound(address, port, reuse_port))
            port = self._sockets[0].getsockname()[1]
        self.port = port
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                ssl_context_factory=(lambda config, default: tls) if tls else None,
            )
        )
        self._thread = threading.Thread(target=self._uvicorn.run, args=(self._sockets,), name="http", daemon=True)

    def start(self) -> None:
        """Answer requests from now on."""
        self._thread.start()
        while self._thread.is_alive() and not self._uvicorn.started:
            time.sleep(_POLL_S)

    def stop(self, grace_s: float) -> None:
        """Accept no new connections, and begin to end the others. `join` waits for that.

        Args:
            grace_s: Seconds after which the calls in flight are cancelled.
        """
        # uvicorn's type says int, but any number of seconds will do
        self._uvicorn.config.timeout_graceful_shutdown = max(grace_s, _MIN_GRACE_S)  # type: ignore[assignment]
        self._uvicorn.should_exit = True

    def join(self) -> None:
        """Wait until the server has stopped, if it was started."""
        if self._thread.ident is not None:
            self._thread.join()
        for bound in self._sockets:
            bound.close()


def _bound(address: str, port: int, reuse_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # asyncio switches Nagle's algorithm off, which would delay each answer by 40 ms, only if the protocol is named
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((address, port))
    except OSError as error:
        bound.close()
        raise ServiceError(
            f"can't listen on {address}, port {port}, for HTTP: {error.strerror}: choose another --http-port"
        ) from error
    return bound
