"""Authentication, over real sockets with real certificates."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.errors import ForbiddenError, UnauthenticatedError
from encoder_service.rpc.access import READING_RPCS
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import Server
from encoder_service.writer import NewImage
from gallery import Store
from gallery.errors import InvalidInputError, UnavailableError
from tests.commands import Command
from tests.digits import png
from tests.encoder_service.raw import RawClient, framed, process


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@contextmanager
def serving(store: Store, encoder: Encoder, **settings: Any) -> Iterator[Server]:
    with Server(store, encoder, Config(port=0, **settings)) as server:
        yield server


def issue(authority: trustme.CA, folder: Path, name: str = "localhost") -> dict[str, Any]:
    """Write a certificate and its key, and return the settings that name the two files."""
    certificate = authority.issue_cert(name)
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    return {"tls_cert_file": folder / "cert.pem", "tls_key_file": folder / "key.pem"}


def trusting(authority: trustme.CA, port: int, **more: Any) -> Client:
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    return Client(f"localhost:{port}", credentials=credentials, **more)


def test_the_reading_rpcs_are_those_without_side_effects_and_reflection() -> None:
    assert set(READING_RPCS) == {
        "/encoder_service.v1.EncoderService/Encode",
        "/encoder_service.v1.EncoderService/EncodeStream",
        "/encoder_service.v1.EncoderService/Decode",
        "/encoder_service.v1.EncoderService/GetEncoder",
        "/encoder_service.v1.SearchService/Search",
        "/encoder_service.v1.SearchService/BatchSearch",
        "/encoder_service.v1.GalleryService/ListGalleries",
        "/encoder_service.v1.GalleryService/GetGallery",
        "/encoder_service.v1.GalleryService/GetImages",
        "/encoder_service.v1.GalleryService/GetMap",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }


def test_a_token_s_role_allows_reading_or_writing(
    store: Store, encoder: Encoder, queries: list[Image.Image], tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("# two roles\nread  sesame\nwrite open-wide  # for the loader\n")
    images = [NewImage("new", png(queries[0]))]
    with serving(store, encoder, tokens_file=tmp_path / "tokens") as server:
        for token in ("", "wrong", "open-wide "[:4]):
            with Client(server.address, token=token) as client:
                with pytest.raises(UnauthenticatedError, match="authorization: Bearer TOKEN"):
                    client.search(png(queries[0]))
                with pytest.raises(UnauthenticatedError):
                    list(client.encode_stream([queries[0]]))
        with Client(server.address, token="sesame") as client:
            assert len(client.search(png(queries[0])).hits) == 5
            assert client.galleries()
            with pytest.raises(ForbiddenError, match="expected a token with the role `write`"):
                list(client.add(images, "digits"))
            with pytest.raises(ForbiddenError):
                client.delete(["digits/train/0"])
        with Client(server.address, token="open-wide") as client:
            assert list(client.add(images, "digits")) == [False]
            assert client.delete(["new"]) == 1


def test_health_checks_need_no_token(store: Store, encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("read sesame")
    with serving(store, encoder, tokens_file=tmp_path / "tokens") as server:
        with Client(server.address) as client:
            client.check_health()
        with grpc.insecure_channel(server.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def test_tokens_follow_their_file_and_a_malformed_file_changes_nothing(
    store: Store, encoder: Encoder, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    file.write_text("read old")
    with serving(store, encoder, tokens_file=file) as server:
        with Client(server.address, token="old") as client:
            client.galleries()
            file.write_text("read new-one")
            with pytest.raises(UnauthenticatedError):
                client.galleries()
        with Client(server.address, token="new-one") as client:
            client.galleries()
            file.write_text("admin everything")
            client.galleries()
            file.unlink()
            client.galleries()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "got none"),
        ("# comment\n", "got none"),
        ("sesame", "line 1: expected `read TOKEN`"),
        ("read a b", "line 1"),
    ],
)
def test_a_malformed_file_of_tokens_stops_the_service(
    store: Store, encoder: Encoder, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "tokens").write_text(content)
    with pytest.raises(InvalidInputError, match=message) as raised:
        Server(store, encoder, Config(port=0, tokens_file=tmp_path / "tokens"))
    assert "sesame" not in str(raised.value)


def test_the_port_uses_tls_and_follows_new_certificates(
    store: Store, encoder: Encoder, authority: trustme.CA, tmp_path: Path
) -> None:
    with serving(store, encoder, host="localhost", **issue(authority, tmp_path)) as server:
        with trusting(authority, server.port) as client:
            assert client.galleries()
        with Client(f"localhost:{server.port}", timeout_s=2) as client, pytest.raises(UnavailableError):
            client.galleries()
        other = trustme.CA()
        issue(other, tmp_path)
        with trusting(other, server.port) as client:
            assert client.galleries()
        (tmp_path / "key.pem").write_text("no key")
        with trusting(authority, server.port, timeout_s=2) as client, pytest.raises(UnavailableError):
            client.galleries()


def test_with_mtls_only_clients_with_a_certificate_of_the_authority_are_accepted(
    store: Store, encoder: Encoder, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    files = issue(authority, tmp_path)
    with serving(store, encoder, host="localhost", tls_client_ca_file=tmp_path / "ca.pem", **files) as server:
        own = authority.issue_cert("client@example.org")
        credentials = grpc.ssl_channel_credentials(
            authority.cert_pem.bytes(), own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes()
        )
        with Client(f"localhost:{server.port}", credentials=credentials) as client:
            assert client.galleries()
        with trusting(authority, server.port, timeout_s=2) as client, pytest.raises(UnavailableError):
            client.galleries()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_machines_are_served_only_with_tls_and_tokens_or_with_insecure(host: str, tmp_path: Path) -> None:
    tls = {"tls_cert_file": tmp_path / "c", "tls_key_file": tmp_path / "k"}
    refused: list[dict[str, Any]] = [{}, {"tokens_file": tmp_path}, tls]
    for settings in refused:
        with pytest.raises(InvalidInputError, match=f"--host {host} exposes the service to other machines"):
            Config(host=host, **settings)
    accepted: list[dict[str, Any]] = [
        {"insecure": True},
        {**tls, "tokens_file": tmp_path},
        {**tls, "tls_client_ca_file": tmp_path},
    ]
    for settings in accepted:
        assert Config(host=host, **settings).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"])
def test_loopback_needs_neither_tls_nor_tokens(host: str) -> None:
    assert Config(host=host).host == host


def test_the_commands_send_a_token_and_verify_the_service(
    command_process: Command, store: Store, encoder: Encoder, authority: trustme.CA, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("read sesame")
    (tmp_path / "token").write_text("sesame\n")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    files = issue(authority, tmp_path)
    with serving(store, encoder, host="localhost", tokens_file=tmp_path / "tokens", **files) as server:
        address = ("--address", f"localhost:{server.port}", "--ca-file", str(tmp_path / "ca.pem"))
        assert command_process("encoder-service", "health", *address).stdout == "ready\n"
        search = ("encoder-service", "search", "digits/train/0", *address, "--json")
        assert command_process(*search, "--token-file", str(tmp_path / "token")).returncode == 0
        refused = command_process(*search)
        assert (refused.returncode, refused.stderr.count("\n")) == (5, 1)
        assert "authorization: Bearer TOKEN" in refused.stderr


@pytest.mark.parametrize("first", ["key", "certificate"])
def test_the_commands_present_a_certificate(
    command: Command, store: Store, encoder: Encoder, authority: trustme.CA, tmp_path: Path, first: str
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    own = authority.issue_cert("client@example.org")
    key, certificate = own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes()
    (tmp_path / "own.pem").write_bytes(key + certificate if first == "key" else certificate + key)
    files = issue(authority, tmp_path)
    with serving(store, encoder, host="localhost", tls_client_ca_file=tmp_path / "ca.pem", **files) as server:
        address = ("--address", f"localhost:{server.port}", "--ca-file", str(tmp_path / "ca.pem"))
        health = ("encoder-service", "health", *address)
        assert command(*health, "--cert-file", str(tmp_path / "own.pem")).stdout == "ready\n"
        assert command(*health).returncode == 5


@pytest.mark.parametrize("broken", ["cert.pem", "key.pem"])
def test_a_malformed_certificate_or_key_stops_the_service(
    store: Store, encoder: Encoder, authority: trustme.CA, tmp_path: Path, broken: str
) -> None:
    files = issue(authority, tmp_path)
    (tmp_path / broken).write_text("neither")
    refused = pytest.raises(InvalidInputError, match=f"{broken}: expected PEM of a certificate and its key")
    with refused, serving(store, encoder, host="localhost", **files):
        pass


BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("name", ["cert.pem", "key.pem", "ca.pem"])
@pytest.mark.parametrize("fault", ["empty", "byte order mark", "cut off"])
def test_gRPC_tries_each_tls_file_at_the_start(  # noqa: N802
    store: Store, encoder: Encoder, authority: trustme.CA, tmp_path: Path, name: str, fault: str
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    files = issue(authority, tmp_path)
    content = (tmp_path / name).read_bytes()
    broken = {"empty": b"", "byte order mark": BYTE_ORDER_MARK + content, "cut off": content[:-60]}[fault]
    (tmp_path / name).write_bytes(broken)
    with pytest.raises(InvalidInputError, match=f"{name}: expected PEM of"):
        Server(store, encoder, Config(port=0, tls_client_ca_file=tmp_path / "ca.pem", **files))


def certify(folder: Path, key: Any, days: int) -> dict[str, Any]:
    """Write a key and a certificate that is valid until so many days from now, and return the settings."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(9), now + timedelta(days))
    signed = unsigned.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return {"tls_cert_file": folder / "cert.pem", "tls_key_file": write_key(folder, key)}


def write_key(folder: Path, key: Any, passphrase: bytes = b"") -> Path:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
    return folder / "key.pem"


def test_certificates_that_clients_would_reject_stop_the_service(
    store: Store, encoder: Encoder, tmp_path: Path
) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    with serving(store, encoder, host="localhost", **certify(tmp_path, curve, days=9)):
        pass
    for key, days, message in (
        (curve, -1, "cert.pem: certificate has expired"),
        (ed25519.Ed25519PrivateKey.generate(), 9, "cert.pem: expected a certificate with an ECDSA or RSA key"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            Server(store, encoder, Config(port=0, **certify(tmp_path, key, days)))
    files = certify(tmp_path, curve, days=9)
    for other, passphrase, message in (
        (curve, b"sesame", "key.pem: expected a key without a passphrase"),
        (ec.generate_private_key(ec.SECP256R1()), b"", "key.pem: expected PEM of a certificate and its key"),
    ):
        write_key(tmp_path, other, passphrase)
        with pytest.raises(InvalidInputError, match=message):
            Server(store, encoder, Config(port=0, **files))


def test_a_token_is_a_whole_word(store: Store, encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("write abc#def\nread x # y\n#read z\n")
    with serving(store, encoder, tokens_file=tmp_path / "tokens") as server:
        for token, is_known in (("abc#def", True), ("x", True), ("abc", False), ("y", False), ("z", False)):
            with Client(server.address, token=token) as client:
                if is_known:
                    assert client.galleries()
                else:
                    with pytest.raises(UnauthenticatedError):
                        client.galleries()


@pytest.mark.parametrize("token", ["caf\u00e9", "a\x07b"])
def test_a_token_that_cannot_be_sent_stops_the_service(
    store: Store, encoder: Encoder, tmp_path: Path, token: str
) -> None:
    (tmp_path / "tokens").write_text(f"read ok\nwrite {token}", "utf-8")
    with pytest.raises(InvalidInputError, match="line 2: expected a token of printable ASCII"):
        Server(store, encoder, Config(port=0, tokens_file=tmp_path / "tokens"))


@pytest.mark.parametrize("change", ["empty", "delete"])
def test_a_file_of_tokens_that_stays_empty_or_missing_revokes_all(
    store: Store,
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: str,
) -> None:
    monkeypatch.setattr("encoder_service.rpc.access._MAX_REPLACING_S", 0.3)
    file = tmp_path / "tokens"
    file.write_text("read sesame")
    with serving(store, encoder, tokens_file=file) as server, Client(server.address, token="sesame") as client:
        file.write_text("") if change == "empty" else file.unlink()
        assert client.galleries()  # it may be about to be replaced
        time.sleep(0.4)
        with pytest.raises(UnauthenticatedError):
            client.galleries()
        assert "all tokens are revoked" in caplog.text
        file.write_text("read sesame")
        assert client.galleries()


def test_refused_calls_and_deletions_are_logged_with_the_caller_s_address(
    store: Store, encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "tokens").write_text("read reader\nwrite writer")
    with serving(store, encoder, tokens_file=tmp_path / "tokens") as server:
        for token, keys in (("mistyped", ["a"]), ("reader", ["a"]), ("writer", ["digits/train/0", "digits/train/1"])):
            with Client(server.address, token=token) as client, suppress(UnauthenticatedError, ForbiddenError):
                client.delete([*keys, "none"], "digits")
    texts = [record.getMessage() for record in caplog.records if "127.0.0.1" in record.getMessage()]
    assert "DeleteImages from ipv4:127.0.0.1" in texts[0]
    assert texts[0].endswith("was rejected: UNAUTHENTICATED")
    assert "DeleteImages from ipv4:127.0.0.1" in texts[1]
    assert "deleted 2 images from gallery 'digits'" in texts[2]
    assert "mistyped" not in caplog.text


def test_strangers_cannot_flood_the_log(
    store: Store, encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tokens").write_text("read sesame")
    with serving(store, encoder, tokens_file=tmp_path / "tokens") as server, Client(server.address) as client:
        for _ in range(200):
            with pytest.raises(UnauthenticatedError):
                client.galleries()
    assert len(caplog.records) < 40


def test_mistakes_of_strangers_leave_no_traceback_and_no_secret_in_the_log(
    command: Command, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("read sesame")
    with process(store, "--tokens-file", str(tmp_path / "tokens")) as (address, service):
        with RawClient(address) as client:
            galleries = "/encoder_service.v1.GalleryService/ListGalleries"
            client.send(client.begin(galleries, (b"authorization", b"Bearer SECRET\xff")), framed(b""), end=True)
            client.call("/grpc.health.v1.Health/Check", b"\xff\xff")
            client.call("/grpc.health.v1.Health/List", b"\xff\xff")
            client.call("/grpc.health.v1.Health/Nothing", b"")
            client.call("/nothing/Nothing", b"")
            statuses = [answer[b"grpc-status"] for answer in client.answers(5)]
        assert sorted(statuses) == [b"12", b"12", b"16", b"3", b"3"]
        service.terminate()
        log = service.communicate(timeout=20)[1]
    assert "Traceback" not in log
    assert "SECRET" not in log
    assert log.count("\n") == 1
