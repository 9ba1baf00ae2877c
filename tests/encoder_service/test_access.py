"""Authentication, over real sockets with real certificates."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
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


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@contextmanager
def serving(store: Store, encoder: Encoder, **settings: Any) -> Iterator[Server]:
    with Server(store, encoder, Config(port=0, **settings)) as server:
        yield server


def issue(authority: trustme.CA, folder: Path, name: str = "localhost") -> dict[str, Path]:
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
    command: Command, store: Store, encoder: Encoder, authority: trustme.CA, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("read sesame")
    (tmp_path / "token").write_text("sesame\n")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    files = issue(authority, tmp_path)
    with serving(store, encoder, host="localhost", tokens_file=tmp_path / "tokens", **files) as server:
        address = ("--address", f"localhost:{server.port}", "--ca-file", str(tmp_path / "ca.pem"))
        assert command("encoder-service", "health", *address).stdout == "ready\n"
        search = ("encoder-service", "search", "digits/train/0", *address, "--json")
        assert command(*search, "--token-file", str(tmp_path / "token")).returncode == 0
        refused = command(*search)
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
    refused = pytest.raises(InvalidInputError, match="expected PEM of a certificate and its key")
    with refused, serving(store, encoder, host="localhost", **files):
        pass
