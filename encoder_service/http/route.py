"""The path that every call over HTTP takes, whichever protocol its request uses."""

import asyncio
import random
from contextlib import suppress
from typing import Protocol

import grpc
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from encoder_service.http.call import Answer, HttpCall
from encoder_service.http.connect import Connect
from encoder_service.http.grpc_web import GRPC_WEB_TYPES, GrpcWeb
from encoder_service.http.handlers import CallDetails, Handlers, Metadatum

# Range of the seconds by which the answer to a rejected call is held back. A connection has one call at a time, so this
# slows down clients that call again at once. Each rejected call takes processor time, which the accepted calls need.
_REJECTION_DELAY_S = (0.1, 0.3)


class Exchange(Protocol):
    """A request and its response, in the form of one protocol.

    Attributes:
        form: Form of the messages, `JSON` or `PROTO`.
        max_bytes: Maximum bytes of the request's content that are read. Longer requests exceed the limit of every RPC.
    """

    form: str
    max_bytes: int

    def refusal(self) -> Answer | None:
        """Return the answer to a request that is not a call of this protocol; None for a call."""

    def timeout_s(self) -> float | None:
        """Return the seconds that the client waits for the answer; None for no deadline. `refusal` must be None."""

    def message(self, content: bytes) -> bytes:
        """Return the message in the content of the request.

        Raises:
            RequestError: The content is malformed.
        """

    def response(self, answer: Answer) -> Response:
        """Return the response with an answer."""


class RpcRoute:
    """Answers the RPCs. An ASGI application for paths of the form /package.Service/Method."""

    def __init__(self, handlers: Handlers) -> None:
        """Take the handlers of the RPCs."""
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        exchange = self._exchange(request)
        refusal = self._refusal(scope["path"]) or exchange.refusal()
        if refusal:
            await exchange.response(refusal)(scope, receive, send)
            return
        call = HttpCall(_details(request), scope["client"], exchange.timeout_s(), request.state.abort)
        reading = asyncio.ensure_future(_read(request, call, exchange.max_bytes))
        try:
            call.start(self._handlers.find(call.call_details, exchange.form), exchange.message)
            answer = await _answer(call, exchange.timeout_s())
            if answer.status is grpc.StatusCode.RESOURCE_EXHAUSTED:
                await asyncio.sleep(random.uniform(*_REJECTION_DELAY_S))
            await _send(send, exchange.response(answer))
        finally:
            reading.cancel()
            call.close()

    def _exchange(self, request: Request) -> Exchange:
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and content_type in GRPC_WEB_TYPES:
            return GrpcWeb(request, content_type)
        return Connect(request, content_type, self._handlers.only_reads(request.scope["path"]))

    def _refusal(self, path: str) -> Answer | None:
        unimplemented = grpc.StatusCode.UNIMPLEMENTED
        if self._handlers.is_stream(path):
            return Answer(unimplemented, message=f"{path} is a stream: call it over gRPC", http_status=501)
        if not self._handlers.knows(path):
            message = "expected the path of an RPC, /encoder_service.v1.SERVICE/METHOD"
            return Answer(unimplemented, message=message, http_status=404)
        return None


def _details(request: Request) -> CallDetails:
    return CallDetails(request.scope["path"], tuple(Metadatum(name, value) for name, value in request.headers.items()))


async def _read(request: Request, call: HttpCall, max_bytes: int) -> None:
    """Pass the content of the request to the call, and end the call when its client has gone.

    Of a request above the limit for all RPCs, only the beginning is read, which the codec then rejects.
    """
    content = bytearray()
    with suppress(ClientDisconnect):
        async for part in request.stream():
            content += part
            if len(content) > max_bytes:
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


async def _send(send: Send, response: Response) -> None:
    """Send a response, and wait until the client has read nearly all of it."""
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    await send({"type": "http.response.body"})  # waits while the connection's buffer is full
