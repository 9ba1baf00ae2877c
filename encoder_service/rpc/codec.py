"""Decompress and parse requests, with a size limit for each RPC, and serialise responses.

gRPC could do this too, but it would run in the one thread that serves all calls, and with one size limit for all RPCs.
For bytes that can't be parsed, it would answer INTERNAL, although the client has made the mistake.
"""

import zlib
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from encoder_service.errors import RequestError
from encoder_service.limits import LIMITS

# Maximum bytes of a request to an RPC that `_MAX_BYTES` does not list: its requests have neither images nor many keys.
_MAX_SMALL_BYTES = 64 * 1024
# Maximum bytes of a health request, which contains one name.
_MAX_HEALTH_BYTES = 4096
# Maximum bytes of a GetImages or DeleteImages request: 1,000 keys of 1,024 characters, up to 4 bytes each, and some
# overhead.
_MAX_KEYS_BYTES = 5 * 1024 * 1024
_MAX_BYTES = {
    "Encode": LIMITS.max_message_bytes,
    "EncodeStream": LIMITS.max_message_bytes,
    "Search": LIMITS.max_message_bytes,
    "BatchSearch": LIMITS.max_message_bytes,
    "AddImages": LIMITS.max_message_bytes,
    "DeleteImages": _MAX_KEYS_BYTES,
    "GetImages": _MAX_KEYS_BYTES,
    "Check": _MAX_HEALTH_BYTES,
    "List": _MAX_HEALTH_BYTES,
    "Watch": _MAX_HEALTH_BYTES,
}
# First bytes of a compressed request: gzip's magic number, and zlib's header for each compression level. An
# uncompressed request never begins with them, because it begins with the tag of a protobuf field. Read as a tag, gzip's
# bytes are invalid, and zlib's belong to a field number that no request uses.
_COMPRESSED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
# The `wbits` value with which zlib accepts both gzip and zlib data.
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


class Codec:
    """Parses the requests and serialises the responses of one RPC."""

    def __init__(
        self, method: str, parse: Callable[[bytes], Any] | None, serialize: Callable[..., bytes] | None
    ) -> None:
        """Take the RPC's functions from gRPC's generated code.

        Args:
            method: Full name of the RPC.
            parse: Converts bytes to a request; None if the RPC's requests are bytes already.
            serialize: Converts a response to bytes; None if the RPC's responses are bytes already.
        """
        self._name = method.rpartition("/")[2]
        self._max_bytes = _MAX_BYTES.get(self._name, _MAX_SMALL_BYTES)
        self._parse = parse or bytes
        self.serialize: Callable[..., bytes] = serialize or bytes

    def parse(self, content: bytes) -> Any:
        """Parse a request, which may be compressed with gzip or zlib.

        Raises:
            RequestError: The request is larger than the RPC's limit, or is malformed.
        """
        self._check_size(len(content))
        if content.startswith(_COMPRESSED):
            content = self._decompress(content)
        try:
            return self._parse(content)
        except DecodeError:
            raise RequestError(
                "request: expected a protobuf message of this RPC, got bytes that can't be parsed as one"
            ) from None

    def _decompress(self, content: bytes) -> bytes:
        stream = zlib.decompressobj(_GZIP_OR_ZLIB)
        try:
            result = stream.decompress(content, self._max_bytes + 1)
        except zlib.error:
            return content  # these bytes can't be parsed either, and `parse` reports that
        self._check_size(len(result))
        if not stream.eof:
            raise RequestError("request: expected a whole compressed message, got the beginning of one")
        return result

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise RequestError(f"request: expected at most {self._max_bytes:,} bytes for {self._name}, got more")
