"""Unary RPCs by gRPC-Web: one frame with the request in a POST, and frames with the response and the trailers.

The protocol is specified at https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md. Streams are not offered.
"""

import base64
import binascii
import re
import string
from urllib.parse import quote

import grpc
from starlette.requests import Request
from starlette.responses import Response

from encoder_service.errors import RequestError
from encoder_service.http.call import Answer
from encoder_service.http.handlers import PROTO
from encoder_service.limits import LIMITS

_TEXT_TYPES = ("application/grpc-web-text", "application/grpc-web-text+proto")
GRPC_WEB_TYPES = ("application/grpc-web", "application/grpc-web+proto", *_TEXT_TYPES)
"""Content types of the protocol. Those with "text" have their content in base64."""
# Bytes before the message in a frame: flags, and the length of the message as a big-endian 32-bit integer.
_PREFIX_BYTES = 5
# Bytes of a frame that are kept. Its message then exceeds the limit of every RPC by at least one byte.
_MAX_FRAME_BYTES = _PREFIX_BYTES + LIMITS.max_message_bytes + 1
# Flags of a frame.
_MESSAGE, _COMPRESSED_MESSAGE, _TRAILERS = 0, 1, 0x80
# Encodings of a compressed message. The codec recognises gzip by its first bytes.
_ENCODINGS = ("", "identity", "gzip")
# A timeout has at most 8 digits and a unit, as gRPC specifies.
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
# Characters that an error message has unescaped in the trailers.
_PLAIN = " " + string.punctuation.replace("%", "")


class GrpcWeb:
    """A request and its response by gRPC-Web. See `route.Exchange`."""

    form = PROTO

    def __init__(self, request: Request, content_type: str) -> None:
        """Take a request and its content type, which must be one of `GRPC_WEB_TYPES`."""
        self._headers = request.headers
        self._content_type = content_type
        self._is_text = content_type in _TEXT_TYPES
        self.max_bytes = (_MAX_FRAME_BYTES + 2) // 3 * 4 if self._is_text else _MAX_FRAME_BYTES

    def refusal(self) -> Answer | None:
        """Return the answer to a request that is not a call of this protocol; None for a call."""
        if self._headers.get("grpc-encoding", "") not in _ENCODINGS:
            message = "grpc-encoding: expected identity or gzip"
            accepted = (("grpc-accept-encoding", "identity, gzip"),)
            return Answer(grpc.StatusCode.UNIMPLEMENTED, message=message, metadata=accepted)
        if not _TIMEOUT.fullmatch(self._headers.get("grpc-timeout", "0S")):
            message = "grpc-timeout: expected at most 8 digits and a unit of H, M, S, m, u or n, such as 500m"
            return Answer(grpc.StatusCode.INVALID_ARGUMENT, message=message)
        return None

    def timeout_s(self) -> float | None:
        """Return the seconds that the client waits for the answer; None for no deadline."""
        match = _TIMEOUT.fullmatch(self._headers.get("grpc-timeout", ""))
        return int(match[1]) * _UNITS_S[match[2]] if match else None

    def message(self, content: bytes) -> bytes:
        """Return the message in the request's one frame.

        Raises:
            RequestError: The content is not one frame, or not base64 where the content type says so.
        """
        if self._is_text:
            try:
                content = base64.b64decode(content[: self.max_bytes], validate=True)
            except binascii.Error:
                raise RequestError(f"request: expected base64, as the content type {self._content_type} says") from None
        prefix, message = content[:_PREFIX_BYTES], content[_PREFIX_BYTES:_MAX_FRAME_BYTES]
        length = int.from_bytes(prefix[1:])
        if len(prefix) < _PREFIX_BYTES or prefix[0] not in (_MESSAGE, _COMPRESSED_MESSAGE):
            raise RequestError("request: expected a frame of gRPC-Web: 0 or 1, the message's length, and the message")
        if len(message) != min(length, LIMITS.max_message_bytes + 1):
            raise RequestError(f"request: expected {length:,} bytes after the frame's prefix, got {len(message):,}")
        return message

    def response(self, answer: Answer) -> Response:
        """Return the response with an answer."""
        content = b""
        if answer.status is grpc.StatusCode.OK:
            content = _frame(_MESSAGE, answer.content)
        code = answer.status.value[0]
        trailers = (("grpc-status", str(code)), ("grpc-message", quote(answer.message, _PLAIN)), *answer.metadata)
        content += _frame(_TRAILERS, "".join(f"{name}: {value}\r\n" for name, value in trailers).encode())
        if self._is_text:
            content = base64.b64encode(content)
        return Response(content, media_type=self._content_type)


def _frame(flags: int, content: bytes) -> bytes:
    return bytes([flags]) + len(content).to_bytes(_PREFIX_BYTES - 1) + content
