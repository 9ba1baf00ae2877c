"""Parse requests and serialise responses of one RPC, within its limits.

gRPC itself would decompress and parse in the thread that serves all calls, with one limit for all RPCs. It would answer
bytes that can't be parsed with INTERNAL, though the mistake is the client's.
"""

import zlib
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from encoder_service.errors import RequestError
from encoder_service.limits import LIMITS

# Maximum bytes of a request to an RPC that takes neither images nor many keys.
_MAX_SMALL_BYTES = 64 * 1024
# Maximum bytes of a health request, which contains one name.
_MAX_HEALTH_BYTES = 4096
# Maximum bytes of a DeleteImages request: 1,000 keys of 1,024 characters of up to 4 bytes, and room for the fields.
_MAX_KEYS_BYTES = 5 * 1024 * 1024
_MAX_BYTES = {
    "Encode": LIMITS.max_message_bytes,
    "EncodeStream": LIMITS.max_message_bytes,
    "Search": LIMITS.max_message_bytes,
    "BatchSearch": LIMITS.max_message_bytes,
    "AddImages": LIMITS.max_message_bytes,
    "DeleteImages": _MAX_KEYS_BYTES,
    "Check": _MAX_HEALTH_BYTES,
    "List": _MAX_HEALTH_BYTES,
    "Watch": _MAX_HEALTH_BYTES,
}
# First bytes of a compressed request: gzip's magic number, or zlib's header for any compression level. No uncompressed
# request of this service begins with them. Read as a field's tag, gzip's are invalid and zlib's are unused.
_COMPRESSED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
# Makes zlib detect whether the data is gzip or zlib.
_EITHER = zlib.MAX_WBITS | 32


class Codec:
    """Parses and serialises the messages of one RPC."""

    def __init__(
        self, method: str, parse: Callable[[bytes], Any] | None, serialize: Callable[..., bytes] | None
    ) -> None:
        """Take the functions that protobuf generated.

        Args:
            method: Full name of the RPC.
            parse: Returns the request in its bytes; None for the bytes themselves.
            serialize: Returns the bytes of a response; None for a response that consists of bytes.
        """
        self._name = method.rpartition("/")[2]
        self._max_bytes = _MAX_BYTES.get(self._name, _MAX_SMALL_BYTES)
        self._parse = parse or bytes
        self.serialize: Callable[..., bytes] = serialize or bytes

    def parse(self, content: bytes) -> Any:
        """Return the request in its bytes, which may be compressed.

        Raises:
            RequestError: The request is larger than the RPC's limit, or is not a message of the RPC.
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
        stream = zlib.decompressobj(_EITHER)
        try:
            result = stream.decompress(content, self._max_bytes + 1)
        except zlib.error:
            return content  # parsing then reports the error
        self._check_size(len(result))
        if not stream.eof:
            raise RequestError("request: expected a whole compressed message, got the beginning of one")
        return result

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise RequestError(f"request: expected at most {self._max_bytes:,} bytes for {self._name}, got more")
