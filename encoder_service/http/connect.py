"""Unary RPCs by the Connect protocol: a POST of JSON or protobuf, and errors as {"code", "message"}.

The protocol is specified at https://connectrpc.com/docs/protocol. Requests by GET and streams are not offered.
"""

import asyncio
import json
import random
from contextlib import suppress
from typing import NamedTuple

import grpc
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from encoder_service.http.call import Answer, HttpCall
from encoder_service.http.handlers import JSON, PROTO, CallDetails, Handlers, Metadatum
from encoder_service.limits import LIMITS

# HTTP status of each gRPC status, from the protocol's specification. Others get 500.
_HTTP_STATUSES = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}
# Content encodings of a request. The codec recognises gzip by its first bytes.
_ENCODINGS = ("", "identity", "gzip")
# Range of the seconds by which the answer to a rejected call is held back. A connection has one call at a time, so this
# slows down clients that call again at once. Each rejected call takes processor time, which the accepted calls need.
_REJECTION_DELAY_S = (0.1, 0.3)
# Maximum digits of the header that has the timeout, from the protocol's specification.
_MAX_TIMEOUT_DIGITS = 10


class _Refusal(NamedTuple):
    """An answer to a request that is not a call of this protocol."""

    http_status: int
    status: grpc.StatusCode
    message: str
    headers: dict[str, str]


class ConnectRoute:
    """Answers the RPCs. An ASGI application for paths of the form /package.Service/Method."""

    def __init__(self, handlers: Handlers) -> None:
        """Take the handlers of the RPCs."""
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        refusal = self._refusal(request)
        if refusal:
            response = _error(refusal.status, refusal.message, refusal.http_status, refusal.headers)
            await response(scope, receive, send)
            return
        content_type = _content_type(request)
        call = HttpCall(_details(request), scope["client"], _timeout_s(request), request.state.abort)
        reading = asyncio.ensure_future(_read(request, call))
        try:
            call.start(self._handlers.find(call.call_details, content_type))
            answer = await _answer(call, _timeout_s(request))
            if answer.status is grpc.StatusCode.RESOURCE_EXHAUSTED:
                await asyncio.sleep(random.uniform(*_REJECTION_DELAY_S))
            await _send(send, answer, content_type)
        finally:
            reading.cancel()
            call.close()

    def _refusal(self, request: Request) -> _Refusal | None:
        path = request.scope["path"]
        unimplemented = grpc.StatusCode.UNIMPLEMENTED
        if self._handlers.is_stream(path):
            return _Refusal(501, unimplemented, f"{path} is a stream: call it over gRPC", {})
        if not self._handlers.knows(path):
            return _Refusal(404, unimplemented, "expected the path of an RPC, /encoder_service.v1.SERVICE/METHOD", {})
        if request.method != "POST":
            return _Refusal(405, unimplemented, f"expected POST, got {request.method}", {"allow": "POST"})
        if _content_type(request) not in (JSON, PROTO):
            message = f"expected the content type {JSON} or {PROTO}"
            return _Refusal(415, unimplemented, message, {"accept-post": f"{JSON}, {PROTO}"})
        if request.headers.get("content-encoding", "") not in _ENCODINGS:
            message = "expected the content encoding identity or gzip"
            return _Refusal(501, unimplemented, message, {"accept-encoding": "identity, gzip"})
        timeout = request.headers.get("connect-timeout-ms", "0")
        if not (timeout.isascii() and timeout.isdigit() and len(timeout) <= _MAX_TIMEOUT_DIGITS):
            message = f"connect-timeout-ms: expected milliseconds of at most {_MAX_TIMEOUT_DIGITS} digits"
            return _Refusal(400, grpc.StatusCode.INVALID_ARGUMENT, message, {})
        return None


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _details(request: Request) -> CallDetails:
    return CallDetails(request.scope["path"], tuple(Metadatum(name, value) for name, value in request.headers.items()))


def _timeout_s(request: Request) -> float | None:
    timeout = request.headers.get("connect-timeout-ms")
    return None if timeout is None else int(timeout) / 1e3


async def _read(request: Request, call: HttpCall) -> None:
    """Pass the request to the call, and end the call when its client has gone.

    Of a request above the limit for all RPCs, only the beginning is read, which the codec then rejects.
    """
    content = bytearray()
    with suppress(ClientDisconnect):
        async for part in request.stream():
            content += part
            if len(content) > LIMITS.max_message_bytes:
                break
        call.received(bytes(content))
        content.clear()
        while (await request.receive())["type"] != "http.disconnect":
            pass
    call.close()


async def _answer(call: HttpCall, timeout_s: float | None) -> Answer:
    """Wait for the answer, at most until the client's deadline."""
    try:
        return await asyncio.wait_for(asyncio.shield(call.answer), timeout_s)
    except TimeoutError:
        return Answer(grpc.StatusCode.DEADLINE_EXCEEDED, message="the deadline passed before the answer was ready")
    except asyncio.CancelledError:
        return Answer(grpc.StatusCode.UNAVAILABLE, message="the service is shutting down: retry later")


async def _send(send: Send, answer: Answer, content_type: str) -> None:
    """Send an answer, and wait until the client has read nearly all of it."""
    metadata = {name: value for name, value in answer.metadata if not name.startswith("grpc-")}
    if answer.status is grpc.StatusCode.OK:
        response = Response(answer.content, headers=metadata, media_type=content_type)
    else:
        response = _error(answer.status, answer.message, headers=metadata)
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    await send({"type": "http.response.body"})  # waits while the connection's buffer is full


def _error(
    status: grpc.StatusCode, message: str, http_status: int | None = None, headers: dict[str, str] | None = None
) -> Response:
    code = "canceled" if status is grpc.StatusCode.CANCELLED else status.name.lower()
    content = json.dumps({"code": code, "message": message}, ensure_ascii=False)
    return Response(content, http_status or _HTTP_STATUSES.get(status, 500), headers, JSON)
