"""Unary RPCs by the Connect protocol: JSON or protobuf in a POST or an address, and errors as {"code", "message"}.

The protocol is specified at https://connectrpc.com/docs/protocol. Streams are not offered.
"""

import base64
import binascii
import json
from urllib.parse import parse_qsl

import grpc
from starlette.requests import Request
from starlette.responses import Response

from encoder_service.errors import RequestError
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
# Values of the header sec-fetch-site with which a browser says that no other web page has made the request. A browser
# sends any page's GET to any service, and only withholds the answer. It sends a POST of these content types only if the
# service permits the page's origin.
_OWN_SITES = ("none", "same-origin")
# Maximum digits of the header that has the timeout, from the protocol's specification.
_MAX_TIMEOUT_DIGITS = 10


class Connect:
    """A request and its response by the Connect protocol. See `route.Exchange`."""

    def __init__(self, request: Request, content_type: str, only_reads: bool) -> None:
        """Take a request.

        Args:
            request: The request.
            content_type: Its content type, without parameters.
            only_reads: Whether its RPC has no side effects, so that it may be called by GET.
        """
        self._request = request
        self._methods = ("GET", "POST") if only_reads else ("POST",)
        self._is_get = request.method == "GET"
        self._parameters = _parameters(request) if self._is_get else {}
        self.form = f"application/{self._parameters.get('encoding')}" if self._is_get else content_type
        self.max_bytes = LIMITS.max_message_bytes

    def refusal(self) -> Answer | None:
        """Return the answer to a request that is not a call of this protocol; None for a call."""
        headers = self._request.headers
        if self._request.method not in self._methods:
            message = f"expected {' or '.join(self._methods)}, got {self._request.method}"
            return _refusal(405, message, ("allow", ", ".join(self._methods)))
        if self.form not in (JSON, PROTO):
            expected = "encoding=json or encoding=proto" if self._is_get else f"the content type {JSON} or {PROTO}"
            return _refusal(415, f"expected {expected}", ("accept-post", f"{JSON}, {PROTO}"))
        if self._is_get and (problem := self._problem_of_get()):
            return problem
        encoding = self._parameters.get("compression", "") if self._is_get else headers.get("content-encoding", "")
        if encoding not in _ENCODINGS:
            message = f"expected the {'compression' if self._is_get else 'content encoding'} identity or gzip"
            return _refusal(501, message, ("accept-encoding", "identity, gzip"))
        timeout = headers.get("connect-timeout-ms", "0")
        if not (timeout.isascii() and timeout.isdigit() and len(timeout) <= _MAX_TIMEOUT_DIGITS):
            message = f"connect-timeout-ms: expected milliseconds of at most {_MAX_TIMEOUT_DIGITS} digits"
            return Answer(grpc.StatusCode.INVALID_ARGUMENT, message=message)
        return None

    def _problem_of_get(self) -> Answer | None:
        if self._request.headers.get("sec-fetch-site", "none") not in _OWN_SITES:
            message = "expected POST from a web page of another origin, got GET"
            return Answer(grpc.StatusCode.PERMISSION_DENIED, message=message)
        for name, values in {"connect": ("", "v1"), "base64": ("", "0", "1")}.items():
            if self._parameters.get(name, "") not in values:
                return Answer(grpc.StatusCode.INVALID_ARGUMENT, message=f"expected {name}={values[-1]}")
        if "message" not in self._parameters:
            return Answer(grpc.StatusCode.INVALID_ARGUMENT, message="expected message=…, percent-encoded")
        return None

    def timeout_s(self) -> float | None:
        """Return the seconds that the client waits for the answer; None for no deadline."""
        timeout = self._request.headers.get("connect-timeout-ms")
        return None if timeout is None else int(timeout) / 1e3

    def message(self, content: bytes) -> bytes:
        """Return the message, which is the whole content, or a parameter of the address.

        Raises:
            RequestError: The parameter is not base64, as another parameter says.
        """
        if not self._is_get:
            return content
        message = self._parameters["message"].encode("latin-1")
        if self._parameters.get("base64") != "1":
            return message
        try:
            return base64.b64decode(message + b"=" * (-len(message) % 4), altchars=b"-_", validate=True)
        except binascii.Error:
            raise RequestError("message: expected URL-safe base64, as base64=1 says") from None

    def response(self, answer: Answer) -> Response:
        """Return the response with an answer."""
        headers = {name: value for name, value in answer.metadata if not name.startswith("grpc-")}
        if answer.status is grpc.StatusCode.OK:
            return Response(answer.content, headers=headers, media_type=self.form)
        code = "canceled" if answer.status is grpc.StatusCode.CANCELLED else answer.status.name.lower()
        content = json.dumps({"code": code, "message": answer.message}, ensure_ascii=False)
        http_status = answer.http_status or _HTTP_STATUSES.get(answer.status, 500)
        return Response(content, http_status, headers, JSON)


def _parameters(request: Request) -> dict[str, str]:
    """Return the parameters of the address. Each character of a value is one byte, because a value may be protobuf."""
    query = request.scope["query_string"].decode("latin-1")
    return dict(parse_qsl(query, keep_blank_values=True, encoding="latin-1"))


def _refusal(http_status: int, message: str, header: tuple[str, str]) -> Answer:
    return Answer(grpc.StatusCode.UNIMPLEMENTED, message=message, metadata=(header,), http_status=http_status)
