"""Authentication: TLS certificates and tokens from files, which are read again when they change."""

import hashlib
import hmac
import logging
import ssl
import threading
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import grpc
from google.protobuf.descriptor_pb2 import MethodOptions

from encoder_service.errors import ForbiddenError, UnauthenticatedError
from encoder_service.rpc.config import Config
from encoder_service.v1 import encoder_pb2, gallery_pb2, search_pb2
from gallery.errors import InvalidInputError, LookalikeError

_log = logging.getLogger(__name__)

REFLECTION_RPCS = frozenset(
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")
)
"""Full names of the RPCs by which clients ask for the protos."""
READING_RPCS = REFLECTION_RPCS | frozenset(
    f"/{service.full_name}/{method.name}"
    for file in (encoder_pb2, gallery_pb2, search_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
)
"""Full names of the RPCs that a token with the role `read` may call. All others require the role `write`."""


class Role(StrEnum):
    """A token's permission."""

    READ = "read"
    WRITE = "write"


class Tokens:
    """The tokens of a file with lines of `read TOKEN` or `write TOKEN`. A `#` begins a comment."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            InvalidInputError: The file can't be read, has a malformed line, or contains no token.
        """
        self._file = _WatchedFile(path)
        self._lock = threading.Lock()
        self._roles = _parse_roles(path, self._file.content())

    def role(self, token: str) -> Role | None:
        """Return the role of a token, None for an unknown token.

        The token is compared with every known token, each in constant time, so that the duration reveals nothing.
        """
        with self._lock:
            if self._file.has_changed():
                try:
                    self._roles = _parse_roles(self._file.path, self._file.content())
                except InvalidInputError as error:
                    _log.error("keeping the previous tokens: %s", error)
        given = hashlib.sha256(token.encode()).digest()
        match = None
        for digest, role in self._roles.items():
            if hmac.compare_digest(digest, given):
                match = role
        return match

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


def server_credentials(config: Config) -> grpc.ServerCredentials | None:
    """Return credentials for the port that follow changes of their files, None without TLS.

    Raises:
        InvalidInputError: A file can't be read, or does not contain a certificate or key.
    """
    if config.tls_cert_file is None or config.tls_key_file is None:
        return None
    try:  # gRPC itself would only report that the port can't be bound
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert_file, config.tls_key_file)
    except (ssl.SSLError, OSError) as error:
        raise InvalidInputError(
            f"expected PEM of a certificate and its key: {error.strerror or error}",
            place=f"{config.tls_cert_file} and {config.tls_key_file}",
        ) from error
    paths = (config.tls_key_file, config.tls_cert_file, config.tls_client_ca_file)
    files = [_WatchedFile(path) for path in paths if path]

    def read() -> grpc.ServerCertificateConfiguration:
        key, chain, *authority = (file.content() for file in files)
        return grpc.ssl_server_certificate_configuration([(key, chain)], *authority)

    def read_if_changed() -> grpc.ServerCertificateConfiguration | None:
        if not any(file.has_changed() for file in files):
            return None
        try:
            return read()
        except LookalikeError as error:
            _log.error("keeping the previous certificates: %s", error)
            return None

    # the stubs don't know that None means no change
    return grpc.dynamic_ssl_server_credentials(read(), read_if_changed, len(files) > 2)  # type: ignore[arg-type]


@dataclass(slots=True)
class _WatchedFile:
    """A file, and the state in which it was last read."""

    path: Path
    _read: tuple[int, ...] = ()

    def has_changed(self) -> bool:
        try:
            return self._stamp() != self._read
        except OSError:  # missing for a moment while it is being replaced
            return False

    def content(self) -> bytes:
        try:
            stamp = self._stamp()
            content = self.path.read_bytes()
            self._read = stamp
            return content
        except OSError as error:
            raise InvalidInputError(f"can't be read: {error.strerror}", place=str(self.path)) from error

    def _stamp(self) -> tuple[int, ...]:
        stat = self.path.stat()
        return (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)


def _parse_roles(path: Path, content: bytes) -> dict[bytes, Role]:
    """Return the role of each token, by the token's SHA-256."""
    roles = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or words[0] not in list(Role):
            raise InvalidInputError("expected `read TOKEN` or `write TOKEN`", place=f"{path}, line {number}")
        roles[hashlib.sha256(words[1].encode()).digest()] = Role(words[0])
    if not roles:
        raise InvalidInputError("expected lines of `read TOKEN` or `write TOKEN`, got none", place=str(path))
    return roles
