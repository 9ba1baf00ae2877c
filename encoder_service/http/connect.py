"""Unary RPCs by the Connect protocol: JSON or protobuf in a POST, and errors as {"code", "message"}.

The protocol is specified at https://connectrpc.com/docs/protocol. Streams are not offered.
"""

import json

import grpc
from starlette.requests import Request
from starlette.responses import Response

from encoder_service.http.call import Answer
from encoder_service.http.handlers import JSON, PROTO
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
# Maximum digits of the header that has the timeout, from the protocol's specification.
_MAX_TIMEOUT_DIGITS = 10


class Connect:
    """A request and its response by the Connect protocol. See `route.Exchange`."""

    def __init__(self, request: Request, content_type: str) -> None:
        """Take a request and its content type without parameters."""
        self._request = request
        self.form = content_type
        self.max_bytes = LIMITS.max_message_bytes

    def refusal(self) -> Answer | None:
        """Return the answer to a request that is not a call of this protocol; None for a call."""
        headers = self._request.headers
        if self._request.method != "POST":
            return _refusal(405, f"expected POST, got {self._request.method}", ("allow", "POST"))
        if self.form not in (JSON, PROTO):
            return _refusal(415, f"expected the content type {JSON} or {PROTO}", ("accept-post", f"{JSON}, {PROTO}"))
        if headers.get("content-encoding", "") not in _ENCODINGS:
            message = "expected the content encoding identity or gzip"
            return _refusal(501, message, ("accept-encoding", "identity, gzip"))
        timeout = headers.get("connect-timeout-ms", "0")
        if not (timeout.isascii() and timeout.isdigit() and len(timeout) <= _MAX_TIMEOUT_DIGITS):
            message = f"connect-timeout-ms: expected milliseconds of at most {_MAX_TIMEOUT_DIGITS} digits"
            return Answer(grpc.StatusCode.INVALID_ARGUMENT, message=message)
        return None

    def timeout_s(self) -> float | None:
        """Return the seconds that the client waits for the answer; None for no deadline."""
        timeout = self._request.headers.get("connect-timeout-ms")
        return None if timeout is None else int(timeout) / 1e3

    def message(self, content: bytes) -> bytes:
        """Return the message, which is the whole content."""
        return content

    def response(self, answer: Answer) -> Response:
        """Return the response with an answer."""
        headers = {name: value for name, value in answer.metadata if not name.startswith("grpc-")}
        if answer.status is grpc.StatusCode.OK:
            return Response(answer.content, headers=headers, media_type=self.form)
        code = "canceled" if answer.status is grpc.StatusCode.CANCELLED else answer.status.name.lower()
        content = json.dumps({"code": code, "message": answer.message}, ensure_ascii=False)
        http_status = answer.http_status or _HTTP_STATUSES.get(answer.status, 500)
        return Response(content, http_status, headers, JSON)


def _refusal(http_status: int, message: str, header: tuple[str, str]) -> Answer:
    return Answer(grpc.StatusCode.UNIMPLEMENTED, message=message, metadata=(header,), http_status=http_status)
