"""Load TLS certificates and keys from files. They are tested at startup, and read again when they change."""

import logging
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from encoder_service.rpc.config import Config
from encoder_service.rpc.files import WatchedFile
from gallery.errors import InvalidInputError, LookalikeError

_log = logging.getLogger(__name__)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# The DER encoding of Ed25519's object identifier. gRPC servers accept certificates with such keys, and gRPC clients
# reject them.
_ED25519 = b"\x06\x03\x2b\x65\x70"
# OpenSSL's error codes for a certificate that is not valid yet, and for a certificate that has expired.
_OUT_OF_DATE = (9, 10)
# Timeout, in seconds, for the trial handshake on loopback.
_HANDSHAKE_S = 10


def server_credentials(config: Config) -> grpc.ServerCredentials | None:
    """Return the server's TLS credentials, which gRPC updates when their files change; None if TLS is off.

    Raises:
        InvalidInputError: A file can't be read, or gRPC can't serve with it.
    """
    if config.tls_cert_file is None or config.tls_key_file is None:
        return None
    paths = (config.tls_key_file, config.tls_cert_file, config.tls_client_ca_file)
    files = [WatchedFile(path) for path in paths if path]

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

    _try(config.tls_cert_file, config.tls_key_file, config.tls_client_ca_file)
    # gRPC's type stubs don't allow `read_if_changed` to return None, which means "no change"
    return grpc.dynamic_ssl_server_credentials(read(), read_if_changed, len(files) > 2)  # type: ignore[arg-type]


def http_tls(config: Config) -> ssl.SSLContext | None:
    """Return settings for HTTPS that follow changes of their files, None without TLS.

    The files must have passed `server_credentials`.
    """
    if config.tls_cert_file is None or config.tls_key_file is None:
        return None
    certificate, key, authority = config.tls_cert_file, config.tls_key_file, config.tls_client_ca_file
    files = [WatchedFile(path) for path in (certificate, key, authority) if path]

    def read() -> ssl.SSLContext:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for file in files:
            file.content()  # remember its state before it is read below
        tls.load_cert_chain(certificate, key)
        if authority:
            tls.load_verify_locations(authority)
            tls.verify_mode = ssl.CERT_REQUIRED
        return tls

    current = read()

    def follow(connection: ssl.SSLObject, *_: object) -> None:
        nonlocal current
        if any(file.has_changed() for file in files):
            try:
                current = read()
            except (OSError, LookalikeError) as error:
                _log.error("keeping the previous certificates: %s", error)
        connection.context = current

    first = current
    first.sni_callback = follow  # called at the beginning of each handshake
    return first


def _try(cert_file: Path, key_file: Path, authority_file: Path | None) -> None:
    """Test the files by serving with them briefly, on a temporary port of loopback.

    Raises:
        InvalidInputError: A file can't be read, or gRPC can't serve with it. The error names the file.
    """
    cert, key = WatchedFile(cert_file).content(), WatchedFile(key_file).content()
    if not _is_certificate(cert):
        raise _unusable(cert_file, cert, "a certificate and its key")
    leaf = ssl.PEM_cert_to_DER_cert(_first_certificate(cert))
    if _ED25519 in leaf:
        raise InvalidInputError(
            "expected a certificate with an ECDSA or RSA key, got Ed25519, which gRPC's clients don't accept",
            place=str(cert_file),
        )
    server = grpc.server(ThreadPoolExecutor(1))
    try:
        try:
            port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, cert)]))
        except RuntimeError as error:
            if b"ENCRYPTED" in key:
                raise InvalidInputError("expected a key without a passphrase", place=str(key_file)) from error
            raise _unusable(key_file, key, "a certificate and its key") from error
        if authority_file:
            authority = WatchedFile(authority_file).content()
            try:
                credentials = grpc.ssl_server_credentials([(key, cert)], authority, require_client_auth=True)
                if not _is_certificate(authority):
                    raise RuntimeError
                server.add_secure_port("127.0.0.1:0", credentials)
            except RuntimeError as error:
                raise _unusable(authority_file, authority, "certificates of authorities") from error
        server.start()
        _check_date(cert_file, cert, port)
    finally:
        server.stop(None)


def _check_date(cert_file: Path, cert: bytes, port: int) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=cert.decode("ascii", "ignore"))
    client.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection(("127.0.0.1", port), _HANDSHAKE_S) as connection, client.wrap_socket(connection):
            pass
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _OUT_OF_DATE:
            raise InvalidInputError(error.verify_message, place=str(cert_file)) from error
    except OSError as error:
        raise InvalidInputError(f"gRPC can't serve with this certificate: {error}", place=str(cert_file)) from error


def _is_certificate(content: bytes) -> bool:
    try:
        if content.startswith(_BYTE_ORDER_MARK):
            return False
        ssl.PEM_cert_to_DER_cert(_first_certificate(content))
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii", "ignore"))
    except (ValueError, ssl.SSLError):
        return False
    return True


def _first_certificate(content: bytes) -> str:
    text = content.decode("ascii", "ignore")
    begin, end = text.index(ssl.PEM_HEADER), text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
    return text[begin:end]


def _unusable(path: Path, content: bytes, expected: str) -> InvalidInputError:
    if not content.strip():
        got = "an empty file"
    elif content.startswith(_BYTE_ORDER_MARK):
        got = "a file that begins with a byte order mark: save it as plain ASCII"
    else:
        got = "something else"
    return InvalidInputError(f"expected PEM of {expected}, got {got}", place=str(path))
