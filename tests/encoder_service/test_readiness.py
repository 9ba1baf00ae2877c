"""What a service reports of galleries that it can't open, and that these leave the others alone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from encoder_service import galleries
from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import SERVICES, Server
from encoder_service.writer import NewImage
from gallery import Store, open_store
from gallery.errors import LookalikeError, UnavailableError
from gallery.files import copy_sparse
from tests.digits import png
from tests.waiting import eventually

ENCODER, SEARCH, GALLERY = SERVICES
CONFIG = Config(port=0, metrics_port=0)


def ready(server: Server) -> dict[str, bool]:
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        names = ("", ENCODER, SEARCH, GALLERY, "liveness")
        statuses = {name: stub.Check(health_pb2.HealthCheckRequest(service=name)).status for name in names}
    return {name: status == health_pb2.HealthCheckResponse.SERVING for name, status in statuses.items()}


UNSEARCHABLE = {"": False, ENCODER: True, SEARCH: False, GALLERY: False, "liveness": True}


def metrics(server: Server) -> list[str]:
    with urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as response:
        return [line for line in response.read().decode().splitlines() if line.startswith("lookalike_gallery_")]


@pytest.fixture
def home(store: Store) -> Path:
    return Path(store.url.removeprefix("edge:")) / "digits"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(galleries, "_REOPEN_EVERY_S", 0.1)
    yield


@pytest.mark.parametrize("lost", ["shard", "shard/segments"])
def test_a_gallery_that_has_lost_its_files_is_neither_served_nor_grown(
    store: Store, home: Path, encoder: Encoder, queries: list[Image.Image], lost: str
) -> None:
    shutil.rmtree(home / "v1" / lost)
    with Server(store, encoder, CONFIG) as server, Client(server.address) as client:
        assert ready(server) == UNSEARCHABLE
        assert metrics(server) == ['lookalike_gallery_up{gallery="digits"} 0.0']
        for call in (
            lambda: client.search(png(queries[0])),
            lambda: client.gallery("digits"),
            lambda: list(client.add([NewImage("new", png(queries[0]))], "digits")),
            lambda: client.delete(["digits/train/0"], "digits"),
        ):
            with pytest.raises(UnavailableError, match="Files of the store are missing or altered"):
                call()
    assert store.differences("digits")
    assert store.spec("digits").count == 400


def test_a_service_becomes_ready_when_a_gallery_that_another_holds_is_free(
    store: Store, encoder: Encoder, queries: list[Image.Image], caplog: pytest.LogCaptureFixture
) -> None:
    with (
        Server(store, encoder) as first,
        Server(open_store(store.url), encoder, CONFIG) as second,
        Client(second.address) as client,
    ):
        assert all(ready(first).values())
        assert ready(second) == UNSEARCHABLE
        with pytest.raises(UnavailableError, match="Another process holds the store"):
            client.search(png(queries[0]))
        first.stop(grace_s=0)
        eventually(lambda: all(ready(second).values()))
        assert 'lookalike_gallery_up{gallery="digits"} 1.0' in metrics(second)
        assert client.search(png(queries[0])).hits
    warnings = [record for record in caplog.records if "can't be opened" in record.getMessage()]
    assert len(warnings) == 1


def test_one_bad_gallery_of_two_is_named_and_the_other_is_served(
    store: Store, home: Path, encoder: Encoder, queries: list[Image.Image], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(home, home.parent / "bad", copy_function=copy_sparse)
    (home.parent / "bad" / "CURRENT").write_bytes(b"\xff\xfe")
    with Server(store, encoder, CONFIG) as server, Client(server.address) as client:
        assert all(ready(server).values())
        assert "gallery 'bad' can't be opened: " in caplog.text
        assert metrics(server) == [
            'lookalike_gallery_up{gallery="bad"} 0.0',
            'lookalike_gallery_up{gallery="digits"} 1.0',
            'lookalike_gallery_images{gallery="digits"} 400.0',
            'lookalike_gallery_version{gallery="digits"} 1.0',
        ]
        assert client.search(png(queries[0]), "digits").hits
        assert [spec.name for spec in client.galleries()] == ["digits"]
        with pytest.raises(UnavailableError):
            client.search(png(queries[0]), "bad")
        with pytest.raises(LookalikeError, match="expected a name where there are several, one of bad, digits"):
            client.search(png(queries[0]))
        (home.parent / "bad" / "CURRENT").write_text("v1")
        eventually(lambda: 'lookalike_gallery_up{gallery="bad"} 1.0' in metrics(server))
        assert client.search(png(queries[0]), "bad").gallery == "bad"


def test_an_empty_store_is_ready(store_url: str, encoder: Encoder) -> None:
    with Server(open_store(store_url), encoder, CONFIG) as server:
        assert all(ready(server).values())
        assert metrics(server) == []
