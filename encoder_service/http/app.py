"""The routes: the RPCs below /package.Service/Method, and the search page everywhere else."""

from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from encoder_service.http.handlers import Handlers
from encoder_service.http.route import RpcRoute

PAGE = Path(__file__).parent / "page"
"""The built files of the search page, whose source is the folder `web`."""

# The page loads nothing from elsewhere, runs no inline script, and can't be framed. Thumbnails are data: URLs.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# Headers of an answer that a web page of another origin may read.
_EXPOSED = ("retry-after", "x-request-id")


def http_app(handlers: Handlers, hosts: Sequence[str] = (), origins: Sequence[str] = ()) -> ASGIApp:
    """Return the ASGI application.

    Args:
        handlers: The handlers of the RPCs.
        hosts: The names under which requests may address the service; empty for any name.
        origins: Origins of other web pages that may call the RPCs, such as "https://example.org".
    """
    middleware = [Middleware(_PageHeaders)]
    if hosts:
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False))
    if origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=origins,
                allow_methods=["POST"],
                allow_headers=["*"],
                expose_headers=_EXPOSED,
            )
        )
    return Starlette(
        routes=[
            Route("/{service}/{method}", RpcRoute(handlers)),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=middleware,
    )


class _PageHeaders:
    """Adds the headers that keep the page safe in a browser."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("cache-control", "no-cache")
            await send(message)

        await self._app(scope, receive, send_with_headers)
