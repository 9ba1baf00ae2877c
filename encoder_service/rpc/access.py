"""Who may call: TLS from files and tokens from a file, read again when the files change."""

import hashlib
import hmac
import logging
import ssl
import threading
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import grpc

from encoder_service.errors import ForbiddenError, UnauthenticatedError
from encoder_service.rpc.config import Config
from gallery.errors import InvalidInputError, LookalikeError

_log = logging.getLogger(__name__)

# What only reads; all else needs the role to write.
_READING = frozenset(
    f"/encoder_service.v1.{name}"
    for name in (
        "EncoderService/Encode",
        "EncoderService/EncodeStream",
        "EncoderService/Decode",
        "EncoderService/GetEncoder",
        "SearchService/Search",
        "SearchService/BatchSearch",
        "GalleryService/ListGalleries",
        "GalleryService/GetGallery",
    )
) | {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"}


class Role(StrEnum):
    """What a token allows."""

    READ = "read"
    WRITE = "write"


class Tokens:
    """The tokens of a file with lines of `read TOKEN` or `write TOKEN`; # begins a comment."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            InvalidInputError: It can't be read, has a line that is neither, or no token at all.
        """
        self._file = _Watched(path)
        self._lock = threading.Lock()
        self._roles = _roles(path, self._file.content())

    def role(self, token: str) -> Role | None:
        """Return what a token allows; None for one that is not known.

        Every known token is compared, each in constant time, so the time taken tells nothing.
        """
        with self._lock:
            if self._file.has_changed():
                try:
                    self._roles = _roles(self._file.path, self._file.content())
                except InvalidInputError as error:
                    _log.error("the tokens stay as they were: %s", error)
        given = hashlib.sha256(token.encode()).digest()
        found = None
        for digest, role in self._roles.items():
            if hmac.compare_digest(digest, given):
                found = role
        return found

    def check(self, method: str, authorization: str) -> None:
        """Let a call pass, or not.

        Args:
            method: Full name of the RPC, "/package.Service/Method".
            authorization: The metadata of that name: "Bearer TOKEN".

        Raises:
            UnauthenticatedError: There is no token, or an unknown one.
            ForbiddenError: The token allows reading only.
        """
        scheme, _, token = authorization.partition(" ")
        role = self.role(token.strip()) if scheme.lower() == "bearer" else None
        if role is None:
            raise UnauthenticatedError(
                "expected the metadata `authorization: Bearer TOKEN` with a token of this service"
            )
        if role is not Role.WRITE and method not in _READING:
            raise ForbiddenError("this token may read; expected one that may write")


def server_credentials(config: Config) -> grpc.ServerCredentials | None:
    """Return the credentials of the port, which follow the files; None for no TLS.

    Raises:
        InvalidInputError: A file can't be read, or is no certificate or key.
    """
    if config.tls_cert_file is None or config.tls_key_file is None:
        return None
    try:  # gRPC would only say that the port can't be bound
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert_file, config.tls_key_file)
    except (ssl.SSLError, OSError) as error:
        raise InvalidInputError(
            f"{config.tls_cert_file} and {config.tls_key_file}: expected PEM of a certificate and its key: "
            f"{error.strerror or error}"
        ) from error
    files = [_Watched(path) for path in (config.tls_key_file, config.tls_cert_file, config.tls_client_ca_file) if path]

    def read() -> grpc.ServerCertificateConfiguration:
        key, chain, *authority = (file.content() for file in files)
        return grpc.ssl_server_certificate_configuration([(key, chain)], *authority)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        if not any(file.has_changed() for file in files):
            return None
        try:
            return read()
        except LookalikeError as error:
            _log.error("the certificates stay as they were: %s", error)
            return None

    # the stubs don't know that None means no change
    return grpc.dynamic_ssl_server_credentials(read(), fetch, len(files) > 2)  # type: ignore[arg-type]


@dataclass(slots=True)
class _Watched:
    """A file, and when it was last read."""

    path: Path
    _read: tuple[int, ...] = ()

    def has_changed(self) -> bool:
        try:
            return self._stamp() != self._read
        except OSError:  # gone for a moment, as while it is being replaced
            return False

    def content(self) -> bytes:
        try:
            stamp = self._stamp()
            content = self.path.read_bytes()
            self._read = stamp
            return content
        except OSError as error:
            raise InvalidInputError(f"{self.path} can't be read: {error.strerror}") from error

    def _stamp(self) -> tuple[int, ...]:
        stat = self.path.stat()
        return (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)


def _roles(path: Path, content: bytes) -> dict[bytes, Role]:
    roles = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or words[0] not in list(Role):
            raise InvalidInputError(f"{path}, line {number}: expected `read TOKEN` or `write TOKEN`")
        roles[hashlib.sha256(words[1].encode()).digest()] = Role(words[0])
    if not roles:
        raise InvalidInputError(f"{path}: expected lines of `read TOKEN` or `write TOKEN`, got none")
    return roles
