"""Authenticate calls by tokens from a file, which is read again when it changes."""

import hashlib
import hmac
import itertools
import logging
import threading
import time
from enum import StrEnum
from pathlib import Path

from google.protobuf.descriptor_pb2 import MethodOptions

from encoder_service.errors import ForbiddenError, UnauthenticatedError
from encoder_service.rpc.files import WatchedFile
from encoder_service.v1 import encoder_pb2, gallery_pb2, search_pb2
from gallery.errors import InvalidInputError

_log = logging.getLogger(__name__)

REFLECTION_RPCS = frozenset(
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")
)
"""Full names of the reflection RPCs, with which clients download the protos."""
READING_RPCS = REFLECTION_RPCS | frozenset(
    f"/{service.full_name}/{method.name}"
    for file in (encoder_pb2, gallery_pb2, search_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
)
"""Full names of the RPCs that a token with the role `read` may call. All others require the role `write`."""


# Seconds for which the file may be empty or missing before all tokens are revoked. A program that rewrites the file in
# place, instead of replacing it atomically, leaves it empty for a moment.
_MAX_REPLACING_S = 2.0


class Role(StrEnum):
    """A token's permission."""

    READ = "read"
    WRITE = "write"


class Tokens:
    """The tokens of a file with lines of `read TOKEN` or `write TOKEN`.

    A token ends at a space. A word that begins with `#` begins a comment, which ends with the line.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            InvalidInputError: The file can't be read, has a malformed line, or contains no token.
        """
        self._file = WatchedFile(path)
        self._lock = threading.Lock()
        self._roles = _parse_roles(path, self._file.content())
        if not self._roles:
            raise InvalidInputError("expected lines of `read TOKEN` or `write TOKEN`, got none", place=str(path))
        self._empty_since: float | None = None

    def role(self, token: str) -> Role | None:
        """Return the role of a token; None if the token is unknown.

        The token is always compared with every known token, each in constant time. The duration therefore does not
        reveal how much of a guessed token is right.
        """
        with self._lock:
            self._follow()
            roles = self._roles
        given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        match = None
        for digest, role in roles.items():
            if hmac.compare_digest(digest, given):
                match = role
        return match

    def _follow(self) -> None:
        """Read the file if it has changed.

        A malformed file changes no tokens. A file that has been empty or missing for two seconds revokes all.
        """
        if not self._file.exists():
            self._revoke("is missing")
            return
        if not (self._file.has_changed() or self._empty_since):
            return
        try:
            roles = _parse_roles(self._file.path, self._file.content())
        except InvalidInputError as error:
            self._empty_since = None
            _log.error("keeping the previous tokens: %s", error)
            return
        if roles:
            self._roles, self._empty_since = roles, None
        else:
            self._revoke("has no tokens")

    def _revoke(self, reason: str) -> None:
        """Revoke all tokens if the file has been empty or missing for two seconds."""
        now = time.monotonic()
        self._empty_since = self._empty_since or now
        if self._roles and now - self._empty_since > _MAX_REPLACING_S:
            self._roles = {}
            _log.error("all tokens are revoked: %s %s", self._file.path, reason)

    def check(self, method: str, authorization: str) -> None:
        """Check that a caller may call an RPC.

        Args:
            method: Full name of the RPC, "/package.Service/Method".
            authorization: The call's metadata `authorization`: "Bearer TOKEN".

        Raises:
            UnauthenticatedError: The token is missing or unknown.
            ForbiddenError: The token allows reading only, and the RPC writes.
        """
        scheme, _, token = authorization.partition(" ")
        role = self.role(token.strip()) if scheme.lower() == "bearer" else None
        if role is None:
            raise UnauthenticatedError(
                "expected the metadata `authorization: Bearer TOKEN` with a token of this service"
            )
        if role is not Role.WRITE and method not in READING_RPCS:
            raise ForbiddenError("expected a token with the role `write`, got one with the role `read`")


def _parse_roles(path: Path, content: bytes) -> dict[bytes, Role]:
    """Return the role of each token, by the token's SHA-256."""
    roles = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        words = list(itertools.takewhile(lambda word: not word.startswith("#"), line.split()))
        if not words:
            continue
        place = f"{path}, line {number}"
        if len(words) != 2 or words[0] not in list(Role):
            raise InvalidInputError("expected `read TOKEN` or `write TOKEN`", place=place)
        role, token = words
        if not (token.isascii() and token.isprintable()):
            raise InvalidInputError("expected a token of printable ASCII, as no other can be sent", place=place)
        roles[hashlib.sha256(token.encode()).digest()] = Role(role)
    return roles
