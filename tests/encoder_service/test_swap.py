"""A running service moves to a gallery's new version without failing a call."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from PIL import Image

from encoder_service import version_watcher
from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.rpc.server import Server
from encoder_service.writer import NewImage
from gallery import Store, open_store
from gallery.errors import NotFoundError, UnavailableError
from gallery.files import replace_file
from gallery.remote.connection import QdrantConnection
from gallery.remote.store import RemoteStore
from tests.digits import build, png
from tests.waiting import eventually


@pytest.fixture
def store(store_url: str) -> Store:
    return open_store(store_url)


@pytest.fixture
def server(store: Store, encoder: Encoder) -> Iterator[Server]:
    build(store, encoder, count=100)
    with Server(store, encoder) as server:
        yield server


def test_a_gallery_on_a_server_that_is_extended_and_one_that_is_removed_are_noticed(
    encoder: Encoder, in_memory_qdrant: QdrantConnection, tmp_path: Path, queries: list[Image.Image]
) -> None:
    store = RemoteStore(in_memory_qdrant, tmp_path)
    build(store, encoder, count=20)
    with Server(store, encoder) as server, Client(server.address) as client:
        before = client.gallery().published_at
        assert client.search(png(queries[0])).hits
        time.sleep(1.1)  # the time of publication has whole seconds
        build(store, encoder, count=30)
        eventually(lambda: client.gallery().published_at != before)
        store.drop("digits")
        build(store, encoder, count=25, name="others")

        def is_other() -> bool:
            with suppress(UnavailableError, NotFoundError):
                return client.gallery().name == "others" and bool(client.search(png(queries[0])).hits)
            return False

        eventually(is_other)


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
    removed: set[int] = set()

    def are_removed() -> bool:  # once the service has closed them
        removed.update(store.clean("digits"))
        return removed == {1, 2}

    eventually(are_removed)


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


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch, store: Store, encoder: Encoder) -> Iterator[Server]:
    """A service that would notice a new version only after the test."""
    monkeypatch.setattr(version_watcher, "_INTERVAL_S", 60)
    build(store, encoder, count=50)
    with Server(store, encoder) as server:
        yield server


def test_an_image_is_acknowledged_by_the_live_version_only(
    unwatched: Server, store: Store, encoder: Encoder, queries: list[Image.Image]
) -> None:
    with Client(unwatched.address) as client:
        assert list(client.add([NewImage("before", queries[0])], "digits")) == [False]
        build(store, encoder, count=60, rebuild=True)
        assert client.search(png(queries[0])).version == 1
        assert list(client.add([NewImage("after", queries[1])], "digits")) == [False]
        assert client.search(png(queries[1])).version == 2
        assert client.search(png(queries[1])).hits[0].key == "after"
        build(store, encoder, count=70, rebuild=True)
        assert client.delete(["digits/train/65", "no such key"], "digits") == 1
        assert client.gallery("digits").count == 69
        assert list(client.add([NewImage("again", queries[2])], "digits")) == [False]
    unwatched.stop()
    assert store.differences("digits") == []
    with closing(store.open("digits")) as gallery:
        assert gallery.get(["digits/train/65"]) == [None]
        assert [entry and entry.key for entry in gallery.get(["before", "after", "again"])] == [None, None, "again"]


def test_nothing_is_acknowledged_while_the_live_version_cannot_be_opened(
    unwatched: Server, store: Store, queries: list[Image.Image]
) -> None:
    home = Path(store.url.removeprefix("edge:")) / "digits"
    replace_file(home / "CURRENT", b"v9\n")
    with Client(unwatched.address) as client:
        with pytest.raises(UnavailableError):
            list(client.add([NewImage("new", queries[0])], "digits"))
        with pytest.raises(UnavailableError):
            client.delete(["digits/train/1"], "digits")
        assert client.search(png(queries[0])).version == 1
        replace_file(home / "CURRENT", b"v1\n")
        assert list(client.add([NewImage("new", queries[0])], "digits")) == [True]


def test_no_image_that_is_acknowledged_after_a_rebuild_has_gone_live_is_missing(
    server: Server, store: Store, encoder: Encoder, queries: list[Image.Image]
) -> None:
    acknowledged: list[tuple[str, float]] = []
    done = threading.Event()

    def images() -> Iterator[NewImage]:
        for index in range(100_000):
            if done.is_set():
                return
            yield NewImage(f"new/{index}", queries[index % len(queries)])
            time.sleep(0.01)

    def add() -> None:
        with Client(server.address) as client:
            for index, answer in enumerate(client.add(images(), "digits")):
                assert answer is False
                acknowledged.append((f"new/{index}", time.time()))

    adding = threading.Thread(target=add)
    adding.start()
    for number in (2, 3):
        build(store, encoder, count=100 + number, rebuild=True)
        time.sleep(2)
    swapped_at = (Path(store.url.removeprefix("edge:")) / "digits" / "CURRENT").stat().st_mtime
    done.set()
    adding.join()
    server.stop()
    late = [key for key, at in acknowledged if at > swapped_at + 1]  # sent before, and received after
    assert late
    with closing(store.open("digits")) as gallery:
        assert None not in gallery.get(late)
