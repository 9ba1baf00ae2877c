"""A service compacts its galleries while they are searched and modified."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from encoder_service import compactor
from encoder_service.client import Client
from encoder_service.compactor import Compactor, Progress, Stage, needs_compaction
from encoder_service.encoder import Encoder
from encoder_service.errors import ForbiddenError
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import Server
from encoder_service.searcher import Key
from encoder_service.writer import NewImage
from gallery import GallerySpec, Store
from gallery.errors import NotFoundError, StoreFullError, UnavailableError
from gallery.remote.connection import QdrantConnection
from gallery.remote.store import RemoteStore
from gallery.types import Changes
from tests.commands import Command
from tests.digits import build, png
from tests.waiting import eventually


@pytest.fixture
def own(server: Server) -> Iterator[Client]:
    """A client of a service whose gallery the test may change."""
    with Client(server.address) as client:
        yield client


wait = partial(eventually, within_s=30, every_s=0.02)


def versions(store: Store) -> list[str]:
    return sorted(path.name for path in store.local_folder("digits").parent.glob("v*"))


def test_no_call_fails_and_nothing_is_lost_while_a_gallery_is_compacted(
    store: Store, server: Server, own: Client, queries: list[Image.Image]
) -> None:
    done = threading.Event()
    acknowledged: list[str] = []
    deleted: list[str] = []
    failures: list[Exception] = []

    def images() -> Iterator[NewImage]:
        for index in itertools.count():
            if done.is_set():
                return
            yield NewImage(f"new/{index}", queries[index % len(queries)])
            time.sleep(0.01)

    def add() -> None:
        with Client(server.address) as client:
            for index, answer in enumerate(client.add(images(), "digits")):
                assert answer is False
                acknowledged.append(f"new/{index}")

    def delete() -> None:
        with Client(server.address) as client:
            while len(deleted) < 300 and not done.wait(0.02):
                assert client.delete([f"digits/train/{len(deleted)}"]) == 1
                deleted.append(f"digits/train/{len(deleted)}")

    def search() -> None:
        with Client(server.address) as client:
            while not done.is_set():
                assert len(client.search(Key("digits/train/399")).hits) == 5
                time.sleep(0.01)

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in (add, delete, search, search)]
    for thread in threads:
        thread.start()
    *_, last = own.compact("digits")
    assert (last.stage, last.spec.version) == (Stage.DONE, 2)
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert own.gallery().count == 400 - len(deleted) + len(acknowledged)
    wait(lambda: versions(store) == ["v2"])
    server.stop()
    with closing(store.open("digits")) as gallery:
        keys = [entry.key for batch in gallery.scroll() for entry in batch]
    expected = {f"digits/train/{index}" for index in range(400)}.difference(deleted).union(acknowledged)
    assert sorted(keys) == sorted(expected)
    assert store.differences("digits") == []


def test_a_service_compacts_what_has_changed_enough(
    store: Store, encoder: Encoder, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compactor, "_CHECK_S", 0.05)
    monkeypatch.setattr(compactor, "_MIN_CHANGED", 50)
    with Server(store, encoder) as server, Client(server.address) as client:
        assert list(client.add([NewImage(f"new/{i}", image) for i, image in enumerate(queries[:49])], "digits"))
        time.sleep(0.3)
        assert client.gallery().version == 1
        assert list(client.add([NewImage("one more", queries[50])], "digits")) == [False]
        wait(lambda: client.gallery().version == 2)
        assert client.delete([f"digits/train/{index}" for index in range(100)]) == 100
        wait(lambda: client.gallery().version == 3)
        assert client.gallery().count == 350
        wait(lambda: versions(store) == ["v3"])
        time.sleep(0.3)
        assert client.gallery().version == 3


def test_a_service_compacts_only_on_request_if_told_so(
    store: Store, encoder: Encoder, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compactor, "_CHECK_S", 0.05)
    monkeypatch.setattr(compactor, "_MIN_CHANGED", 10)
    with Server(store, encoder, Config(port=0, compact=False)) as server, Client(server.address) as client:
        assert list(client.add([NewImage(f"new/{i}", image) for i, image in enumerate(queries[:30])], "digits"))
        time.sleep(0.3)
        assert client.gallery().version == 1
        *_, last = client.compact("digits")
        assert last.spec.version == client.gallery().version == 2


def test_small_shares_and_small_numbers_are_not_worth_a_compaction() -> None:
    small, large = (GallerySpec("g", "e", "f" * 64, 128, count=count) for count in (1000, 1_000_000))
    assert not needs_compaction(small, Changes(9_999, 9_999))
    assert needs_compaction(small, Changes(10_000, 0))
    assert needs_compaction(small, Changes(0, 10_000))
    assert not needs_compaction(large, Changes(49_999, 199_999))
    assert needs_compaction(large, Changes(50_000, 0))
    assert needs_compaction(large, Changes(0, 200_000))


def test_a_compaction_that_fails_is_logged_once_and_tried_again_later_and_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compactor, "_CHECK_S", 0.01)
    monkeypatch.setattr(compactor, "_RETRY_S", 0.1)
    attempts: list[float] = []

    def fail(name: str, progress: Progress) -> None:
        attempts.append(time.monotonic())
        raise StoreFullError("the disk is full")

    spec = GallerySpec("g", "e", "f" * 64, 128, version=1)
    compacting = Compactor(lambda: [(spec, Changes(10_000, 0))], fail)
    compacting.start()
    wait(lambda: len(attempts) >= 3)
    with pytest.raises(StoreFullError):
        compacting.follow(spec, 1)
    compacting.stop()
    assert attempts[1] - attempts[0] > 0.1
    assert attempts[2] - attempts[1] > 0.2
    assert caplog.text.count("gallery 'g' could not be compacted: the disk is full") == 1


def test_a_load_that_is_running_is_named_and_the_service_goes_on(
    store: Store, own: Client, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    spec = GallerySpec("digits", encoder.spec.name, encoder.spec.fingerprint, encoder.spec.code_size)
    with closing(store.build(spec, rebuild=True)), pytest.raises(UnavailableError, match="Another process holds the"):
        list(own.compact("digits"))
    assert "gallery 'digits' could not be compacted: gallery 'digits' is in use by process" in caplog.text
    assert own.search(Key("digits/train/0")).version == 1
    store.clean("digits")
    *_, last = own.compact("digits")
    assert last.spec.version == own.search(Key("digits/train/0")).version == 2


def test_a_reader_may_not_compact(store: Store, encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("read reader")
    with (
        Server(store, encoder, Config(port=0, tokens_file=tmp_path / "tokens")) as server,
        Client(server.address, token="reader") as client,
        pytest.raises(ForbiddenError),
    ):
        next(client.compact("digits"))


def test_a_gallery_on_a_qdrant_server_needs_no_compaction(
    encoder: Encoder, in_memory_qdrant: QdrantConnection, tmp_path: Path
) -> None:
    store = RemoteStore(in_memory_qdrant, tmp_path)
    build(store, encoder, count=10)
    with Server(store, encoder) as server, Client(server.address) as client:
        assert [state.stage for state in client.compact("digits")][-1] is Stage.NOT_NEEDED
        with pytest.raises(NotFoundError):
            next(client.compact("other"))


def test_the_command_waits_for_the_service(
    command: Command, store: Store, server: Server, own: Client, queries: list[Image.Image]
) -> None:
    list(own.add([NewImage("new", png(queries[0]))], "digits"))
    done = command("ingest", "compact", "digits", "--service", server.address)
    assert (done.returncode, done.stdout) == (0, "digits v2: 401 images indexed anew\n"), done.stderr
    locked = command("ingest", "compact", "digits", "--store", store.url)
    assert locked.returncode == 5
    assert "ingest compact … --service" in locked.stderr


def test_a_service_that_is_stopped_gives_up_its_compaction(
    store: Store, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gallery.edge.compaction._BATCH_COUNT", 1)
    with Server(store, encoder) as server, Client(server.address) as client:
        states = client.compact("digits")
        next(states)
        wait(lambda: versions(store) == ["v1", "v2"])
    assert versions(store) in (["v1"], ["v2"])
    assert store.spec("digits").count == 400
    assert store.differences("digits") == []
