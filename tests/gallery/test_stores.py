"""Galleries by name: builds, versions, the swap between them, and damaged folders."""

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gallery import GallerySpec, Placement, Query, Store, open_store
from gallery.errors import (
    EncoderMismatchError,
    GalleryNotFoundError,
    InvalidQueryError,
    LookalikeError,
    StoreDamagedError,
    StoreError,
    StoreLockedError,
)
from gallery.remote.connection import QdrantConnection
from gallery.remote.layout import create_collection
from gallery.remote.store import RemoteStore
from tests.digits import entries

SPEC = GallerySpec("g", "seed", "f" * 64, 8, sources=("test",))
CODES = np.random.default_rng(6).random((50, 8), np.float32)


def fill(
    store: Store, count: int = 50, rebuild: bool = False, spec: GallerySpec = SPEC, index: bool = True
) -> GallerySpec:
    with closing(store.build(spec, rebuild=rebuild)) as build:
        build.gallery.upsert(entries(CODES[:count]))
        if index:
            build.index()
        return build.publish()


def first_key(store: Store, row: int) -> str:
    with closing(store.open("g")) as gallery:
        return gallery.search(Query(CODES[row]))[0].key


def test_a_published_build_is_the_live_gallery(store: Store) -> None:
    spec = fill(store)
    assert (spec.version, spec.count, spec.sources) == (1, 50, ("test",))
    assert store.list() == [spec] == [store.spec("g")]
    assert first_key(store, 7) == "k7"


def test_an_unpublished_build_is_invisible(store: Store) -> None:
    build = store.build(SPEC)
    build.gallery.upsert(entries(CODES))
    build.close()
    assert store.list() == []
    with pytest.raises(GalleryNotFoundError):
        store.open("g")


def test_a_rebuild_leaves_the_live_version_alone_until_it_is_published(store: Store) -> None:
    fill(store, count=10)
    build = store.build(SPEC, rebuild=True)
    build.gallery.upsert(entries(CODES))
    assert store.spec("g").version == 1
    live = store.open("g")
    assert live.count() == 10
    live.close()
    assert build.publish().version == 2
    build.close()
    assert store.spec("g").count == 50


def test_building_again_extends_the_live_version(store: Store) -> None:
    fill(store, count=10)
    spec = fill(store)
    assert (spec.version, spec.count, spec.sources) == (1, 50, ("test",))


def test_codes_of_another_encoder_are_rejected_with_both_fingerprints(store: Store) -> None:
    fill(store)
    other = GallerySpec("g", "other", "0" * 64, 8)
    with pytest.raises(
        EncoderMismatchError, match=r"'seed' \(ffffffff…\), and the one in use is 'other' \(00000000…\).*--rebuild"
    ):
        store.build(other)
    assert fill(store, rebuild=True, spec=other).encoder == "other"


def test_a_dropped_gallery_is_gone(store: Store) -> None:
    fill(store)
    store.drop("g")
    assert store.list() == []
    with pytest.raises(GalleryNotFoundError):
        store.drop("g")


def test_a_missing_gallery_is_reported_with_those_that_exist_and_the_store_apart_from_the_message(store: Store) -> None:
    with pytest.raises(GalleryNotFoundError) as raised:
        store.open("g")
    assert raised.value.message == "no gallery 'g': build one with `ingest load mnist`"
    assert str(raised.value) == f"store {store.url}: {raised.value.message}"
    fill(store)
    with pytest.raises(GalleryNotFoundError) as raised:
        store.spec("other")
    assert (raised.value.message, raised.value.place) == ("no gallery 'other': there are: g", f"store {store.url}")


def test_no_message_of_a_rejected_call_names_the_store(store: Store, tmp_path: Path) -> None:
    fill(store)
    for attempt in (
        lambda: store.open("other"),
        lambda: store.local_folder("other"),
        lambda: store.modified_by_service("other"),
        lambda: store.differences("other"),
        lambda: store.clean("other"),
        lambda: store.drop("other"),
        lambda: store.build(GallerySpec("g", "other", "0" * 64, 8)),
        lambda: store.restore(tmp_path / "missing.tar.gz"),
    ):
        with pytest.raises(LookalikeError) as raised:
            attempt()
        assert not isinstance(raised.value, StoreError)
        for secret in (store.url, str(tmp_path), "memory:6333"):
            assert secret not in raised.value.message


@pytest.mark.parametrize("url", ["exact:", "edge:"])
def test_a_placement_on_a_store_without_a_cluster_is_rejected(url: str, store_url: str) -> None:
    with pytest.raises(InvalidQueryError) as raised:
        open_store(url if url == "exact:" else store_url).build(SPEC, placement=Placement(shards=2))
    assert raised.value.message.startswith("shards and replicas: expected a store on a server")
    assert raised.value.place.startswith(f"store {url}")


def test_a_rebuild_keeps_the_placement_and_a_load_may_not_change_it(
    in_memory_qdrant: QdrantConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RemoteStore(in_memory_qdrant, tmp_path)
    fill(store)
    monkeypatch.setattr("gallery.remote.store.placement_of", lambda connection, collection: Placement(3, 2, 1))
    store.build(SPEC, placement=Placement(replicas=2)).close()
    with pytest.raises(InvalidQueryError, match="gallery 'g' has 3 shards, 2 replicas and write consistency 1: expect"):
        store.build(SPEC, placement=Placement(replicas=1))
    placed: list[Placement] = []

    def note_placement(*arguments: Any) -> None:
        placed.append(arguments[3])
        create_collection(*arguments)

    monkeypatch.setattr("gallery.remote.store.create_collection", note_placement)
    store.build(SPEC, rebuild=True, placement=Placement(shards=6)).close()
    assert placed == [Placement(6, 2, 1)]


@pytest.mark.parametrize("name", ["", "../up", "A", "a/b", ".hidden", "x" * 65])
def test_names_that_could_leave_the_folder_are_rejected(store: Store, name: str) -> None:
    with pytest.raises(InvalidQueryError, match="gallery name"):
        store.spec(name) if name else GallerySpec(name, "seed", "f" * 64, 8)


@pytest.mark.parametrize(
    "url", ["", "edge:", "redis:x", "/a/folder", "http:", "http://", "http://h:port", "http://h/path"]
)
def test_urls_of_unknown_kinds_are_rejected(url: str) -> None:
    with pytest.raises(InvalidQueryError, match="expected edge:DIR, http://HOST:6333 or https://HOST:6333"):
        open_store(url)


def test_a_store_that_is_a_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="expected a folder, and this is a file"):
        open_store(f"edge:{tmp_path / 'file'}")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_store_that_cannot_be_written_is_rejected(tmp_path: Path, unprivileged: Callable[[], None]) -> None:
    tmp_path.chmod(0o555)
    unprivileged()
    with pytest.raises(StoreError, match="Permission denied: name another store with --store"):
        open_store(f"edge:{tmp_path / 'store'}").build(SPEC)


def test_opening_a_gallery_that_another_process_has_open_fails_and_names_the_process(store_url: str) -> None:
    fill(open_store(store_url))
    with elsewhere("gallery = store.open('g')", store_url) as holder:
        store = open_store(store_url)
        for attempt in (store.open, store.drop):
            with pytest.raises(StoreLockedError, match=f"gallery 'g' is in use by process {holder.pid}"):
                attempt("g")
    assert first_key(open_store(store_url), 3) == "k3"


def test_a_second_concurrent_build_of_a_gallery_fails(store_url: str) -> None:
    spec = "GallerySpec('g', 'seed', 'f' * 64, 8)"
    with elsewhere(f"build = store.build({spec})", store_url) as holder:
        with pytest.raises(StoreLockedError, match=f"in use by process {holder.pid}"):
            open_store(store_url).build(SPEC)
        with closing(open_store(store_url).build(GallerySpec("other", "seed", "f" * 64, 8))) as other:
            assert other.gallery.count() == 0
    assert fill(open_store(store_url)).count == 50


def test_a_killed_build_is_resumed_with_its_entries(store_url: str) -> None:
    job = """
        import numpy as np
        from tests.digits import entries
        build = store.build(GallerySpec('g', 'seed', 'f' * 64, 8, sources=('test',)))
        build.gallery.upsert(entries(np.random.default_rng(6).random((50, 8), np.float32)[:30]))
    """
    with elsewhere(job, store_url) as holder:
        holder.send_signal(signal.SIGKILL)
    store = open_store(store_url)
    assert store.list() == []
    build = store.build(SPEC)
    assert build.gallery.count() == 30
    build.close()
    assert fill(store).count == 50
    assert first_key(store, 3) == "k3"


@pytest.mark.parametrize(
    "other",
    [
        GallerySpec("g", "other", "0" * 64, 8, sources=("test",)),
        GallerySpec("g", "seed", "f" * 64, 8, sources=("more",)),
    ],
)
def test_an_interrupted_build_of_another_spec_is_discarded(store_url: str, other: GallerySpec) -> None:
    store = open_store(store_url)
    build = store.build(SPEC)
    build.gallery.upsert(entries(CODES))
    build.close()
    with closing(store.build(other)) as build:
        assert build.gallery.count() == 0


def home(store_url: str) -> Path:
    return Path(store_url.removeprefix("edge:")) / "g"


@pytest.mark.parametrize("broken", ["CURRENT", "v1/gallery.json", "v1/shard/edge_config.json"])
def test_half_written_files_give_a_clear_error(store_url: str, broken: str) -> None:
    store = open_store(store_url)
    fill(store)
    (home(store_url) / broken).write_text("v9")
    with pytest.raises(StoreDamagedError, match=r"v9|gallery\.json|shard"):
        store.open("g")


def test_a_missing_description_gives_a_clear_error(store_url: str) -> None:
    store = open_store(store_url)
    fill(store)
    (home(store_url) / "v1" / "gallery.json").unlink()
    with pytest.raises(StoreDamagedError, match=r"which has no gallery\.json: restore a backup"):
        store.open("g")


def test_unrelated_folders_are_left_alone(store_url: str) -> None:
    foreign = Path(store_url.removeprefix("edge:")) / "holiday photos"
    foreign.mkdir(parents=True)
    (foreign / "beach.jpg").write_bytes(b"jpeg")
    store = open_store(store_url)
    fill(store)
    assert [spec.name for spec in store.list()] == ["g"]
    assert (foreign / "beach.jpg").read_bytes() == b"jpeg"


def test_a_foreign_description_gives_a_clear_error(store_url: str) -> None:
    store = open_store(store_url)
    fill(store)
    (home(store_url) / "v1" / "gallery.json").write_text(json.dumps({"some": "other", "program's": "file"}))
    with pytest.raises(StoreDamagedError, match=r"gallery\.json: can't be read as a gallery's description"):
        store.spec("g")


class elsewhere:  # noqa: N801 (reads as a statement)
    """Runs a statement on a store in another process, which lives until the block ends."""

    def __init__(self, statement: str, store_url: str) -> None:
        lead = f"from gallery import GallerySpec, open_store\nstore = open_store({store_url!r})\n"
        script = lead + textwrap.dedent(statement) + "\nprint('ready', flush=True)\ninput()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> subprocess.Popen[str]:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self._process

    def __exit__(self, *raised: object) -> None:
        self._process.kill()
        self._process.communicate()
