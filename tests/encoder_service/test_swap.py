"""A running service moves to a gallery's new version without failing a call."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.rpc.server import Server
from gallery import Store, open_store
from gallery.files import replace_file
from tests.digits import build, png


@pytest.fixture
def store(store_url: str) -> Store:
    return open_store(store_url)


@pytest.fixture
def server(store: Store, encoder: Encoder) -> Iterator[Server]:
    build(store, encoder, count=100)
    with Server(store, encoder) as server:
        yield server


def test_the_service_follows_a_rebuild_without_failing_a_call(
    server: Server, store: Store, encoder: Encoder, queries: list[Image.Image]
) -> None:
    query, stop = png(queries[0]), threading.Event()
    versions: list[int] = []
    failures: list[Exception] = []

    def ask() -> None:
        with Client(server.address) as client:
            while not stop.is_set():
                try:
                    versions.append(client.search(query).version)
                except Exception as error:
                    failures.append(error)

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    for number in (2, 3):
        build(store, encoder, count=100 + number, rebuild=True)
        deadline = time.monotonic() + 30
        while versions[-1:] != [number] and time.monotonic() < deadline:
            time.sleep(0.05)
    stop.set()
    for caller in callers:
        caller.join()
    assert not failures
    assert sorted(set(versions)) == [1, 2, 3]
    assert store.clean("digits") == [1, 2]  # the service has closed them


def test_a_version_that_cannot_be_opened_leaves_the_service_on_the_old_one(
    server: Server, store: Store, encoder: Encoder, queries: list[Image.Image], caplog: pytest.LogCaptureFixture
) -> None:
    home = Path(store.url.removeprefix("edge:")) / "digits"
    replace_file(home / "CURRENT", b"v9\n")
    deadline = time.monotonic() + 30
    while "stays at v1" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.05)
    line = next(line for line in caplog.messages if "gallery 'digits' stays at v1: " in line)
    assert "'v9'" in line
    with Client(server.address) as client:
        assert client.search(png(queries[0]), "digits").version == 1
        replace_file(home / "CURRENT", b"v1\n")
        build(store, encoder, rebuild=True)
        while client.search(png(queries[0]), "digits").version == 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.search(png(queries[0]), "digits").version == 2


def test_a_version_whose_files_were_altered_is_refused(
    server: Server,
    store: Store,
    encoder: Encoder,
    queries: list[Image.Image],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    other = open_store(f"edge:{tmp_path / 'other'}")
    for rebuild in (False, True):
        build(other, encoder, count=100, rebuild=rebuild)
    home = Path(store.url.removeprefix("edge:")) / "digits"
    (tmp_path / "other" / "digits" / "v2").rename(home / "v2")
    altered = max((home / "v2" / "shard").rglob("*.dat"), key=lambda path: path.stat().st_size)
    content = bytearray(altered.read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    replace_file(home / "CURRENT", b"v2\n")
    deadline = time.monotonic() + 30
    while "stays at v1" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "gallery 'digits' stays at v1: v2 is not as it was built: shard/" in caplog.text
    with Client(server.address) as client:
        assert client.search(png(queries[0]), "digits").version == 1
