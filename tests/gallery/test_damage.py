"""Galleries of which files are lost or wrong: they are named, never served as empty, and leave the others alone."""

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest

from gallery import GallerySpec, Store, open_store
from gallery.errors import GalleryNotFoundError, LookalikeError, NewerFormatError, StoreDamagedError, StoreError
from gallery.files import copy_sparse
from tests.commands import Command
from tests.digits import entries
from tests.gallery.test_stores import CODES, SPEC, elsewhere, first_key, home
from tests.gallery.test_stores import fill as indexed_fill

fill = partial(indexed_fill, index=False)  # an index takes a process, and changes nothing here
OTHER = GallerySpec("h", "seed", "f" * 64, 8)
ADD = """
    import numpy as np
    from tests.digits import entries
    gallery = store.open('g')
    gallery.upsert(entries(np.random.default_rng(7).random((60, 8), np.float32)))
"""


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def one(pattern: str) -> Callable[[Path], Path]:
    return lambda version: sorted(version.glob(pattern))[0]


def truncate(version: Path) -> None:
    path = one("shard/segments/*/vector_storage/vectors/*.mmap")(version)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


LOSSES: dict[str, Callable[[Path], object]] = {
    "shard": lambda version: remove(version / "shard"),
    "segments": lambda version: remove(version / "shard" / "segments"),
    "segment": lambda version: remove(one("shard/segments/*")(version)),
    "config": lambda version: remove(version / "shard" / "edge_config.json"),
    "codes": lambda version: remove(one("shard/segments/*/vector_storage")(version)),
    "keys": lambda version: remove(one("shard/segments/*/*.mappings")(version)),
    "version.info": lambda version: remove(one("shard/segments/*/version.info")(version)),
}


@pytest.mark.parametrize("lose", [*LOSSES.values(), truncate], ids=[*LOSSES, "half of the codes"])
def test_a_version_that_has_lost_files_is_not_opened_and_stays_known_as_damaged(
    store_url: str, lose: Callable[[Path], object]
) -> None:
    store = open_store(store_url)
    fill(store)
    lose(home(store_url) / "v1")
    for _ in range(2):
        with pytest.raises(StoreDamagedError, match=r"gallery 'g' v1 can't be opened: shard/"):
            store.open("g")
        with pytest.raises(StoreDamagedError, match="gallery 'g' is not as it was built: shard/"):
            store.build(SPEC)
        assert store.differences("g")
    assert fill(store, rebuild=True).version == 2
    assert first_key(store, 3) == "k3"


@pytest.mark.parametrize("lose", [LOSSES["shard"], LOSSES["segments"], LOSSES["keys"]])
def test_a_loss_after_a_killed_modification_is_noticed_too(store_url: str, lose: Callable[[Path], object]) -> None:
    store = open_store(store_url)
    fill(store)
    with elsewhere(ADD, store_url):
        pass  # killed at the end of the block
    lose(home(store_url) / "v1")
    for attempt in (store.open, store.differences, store.differences):
        with pytest.raises(StoreDamagedError, match=r"gallery 'g' v1 can't be opened: shard/"):
            attempt("g")


@pytest.mark.parametrize("lost", ["shard", "shard/segments"])
def test_a_loss_after_a_load_of_release_0_1_0_was_killed_is_noticed_too(store_url: str, lost: str) -> None:
    store = open_store(store_url)
    fill(store)
    version = home(store_url) / "v1"
    (version / "manifest.json").unlink()  # as that release did when a load began
    assert first_key(store, 3) == "k3"
    remove(version / lost)
    for attempt in (store.open, lambda name: store.build(SPEC)):
        with pytest.raises(StoreDamagedError, match=r"gallery 'g' v1 can't be opened: shard/"):
            attempt("g")


def test_a_gallery_that_was_opened_by_a_killed_process_stays_as_it_was(store_url: str) -> None:
    store = open_store(store_url)
    fill(store)
    with elsewhere("gallery = store.open('g'); assert gallery.count() == 50", store_url):
        pass
    assert store.differences("g") == []
    assert not store.modified_by_service("g")


def in_json(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "v1" / "gallery.json"
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))

    return change


def becomes_a_folder(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def has_content(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


QUANTILES = [0.5] * 101
WRONG: dict[str, Callable[[Path], object]] = {
    "CURRENT of other bytes": has_content("CURRENT", b"\xff\xfe"),
    "CURRENT in UTF-16": has_content("CURRENT", "v1\n".encode("utf-16")),
    "empty CURRENT": has_content("CURRENT", b""),
    "long CURRENT": has_content("CURRENT", b"v" * 100_000),
    "CURRENT that leads elsewhere": has_content("CURRENT", b"../h/v1\n"),
    "CURRENT that names its folder": has_content("CURRENT", b".\n"),
    "CURRENT that is a folder": becomes_a_folder("CURRENT"),
    "no CURRENT": lambda folder: (folder / "CURRENT").unlink(),
    "no version": lambda folder: shutil.rmtree(folder / "v1"),
    "description that is a folder": becomes_a_folder("v1/gallery.json"),
    "description of other bytes": has_content("v1/gallery.json", b"\xff\xfe{}"),
    "nested description": has_content("v1/gallery.json", b"[" * 100_000),
    "nested value": has_content("v1/gallery.json", b'{"name": ' + b'{"a":' * 100_000),
    "no object": has_content("v1/gallery.json", b'"text"'),
    "version": in_json(version="1"),
    "count": in_json(count=-1),
    "count of images": in_json(count=True),
    "code size": in_json(code_size=8.0),
    "encoder": in_json(encoder=["seed"]),
    "sources": in_json(sources="test"),
    "one source": in_json(sources=[1]),
    "quantiles": in_json(calibration={"errors": "many", "distances": QUANTILES}),
    "too few quantiles": in_json(calibration={"errors": QUANTILES, "distances": [1.0]}),
    "flatness": in_json(calibration={"errors": QUANTILES, "distances": QUANTILES, "flatness": [0.9, 0.1]}),
    "not a number": in_json(calibration={"errors": QUANTILES, "distances": [float("nan")] * 101}),
}


@pytest.mark.parametrize("spoil", WRONG.values(), ids=WRONG)
def test_whatever_is_wrong_with_one_gallery_the_others_are_listed_and_opened(
    store_url: str, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(store_url)
    fill(store)
    other = fill(store, spec=OTHER)
    spoil(home(store_url))
    with caplog.at_level(logging.WARNING):
        assert store.list() == [other]
    assert "gallery 'g' is left out: " in caplog.text
    assert store.names() == ["g", "h"]
    for attempt in (store.spec, store.open):
        with pytest.raises(StoreError) as raised:
            attempt("g")
        assert "\n" not in str(raised.value)
    with suppress(StoreDamagedError):
        assert store.differences("g")
    store.open("h").close()
    with pytest.raises(GalleryNotFoundError, match="there are: g, h"):
        store.spec("i")
    store.drop("g")
    assert store.names() == ["h"]


def test_a_gallery_that_this_user_may_not_read_leaves_the_others_alone(
    store_url: str, tmp_path: Path, unprivileged: Callable[[], None]
) -> None:
    store = open_store(store_url)
    fill(store)
    other = fill(store, spec=OTHER)
    (home(store_url) / "CURRENT").chmod(0o600)
    unprivileged()
    assert store.list() == [other]
    with pytest.raises(StoreError, match=r"g/CURRENT: can't be used: Permission denied"):
        store.spec("g")


def test_a_gallery_whose_folder_this_user_may_not_read_is_named(
    store_url: str, unprivileged: Callable[[], None]
) -> None:
    store = open_store(store_url)
    fill(store)
    fill(store, spec=OTHER)
    home(store_url).chmod(0o700)
    unprivileged()
    assert store.names() == ["g", "h"]
    assert [spec.name for spec in store.list()] == ["h"]
    with pytest.raises(StoreError, match="Permission denied"):
        store.open("g")


def test_a_load_that_died_just_before_its_version_went_live_is_completed(store_url: str) -> None:
    store = open_store(store_url)
    fill(store)
    (home(store_url) / "CURRENT").unlink()
    with closing(store.build(SPEC)) as build:
        assert build.gallery.count() == 50
        build.publish()
    assert store.spec("g").count == 50


def test_the_list_names_a_gallery_that_cannot_be_read(command: Command, store_url: str) -> None:
    fill(open_store(store_url))
    (home(store_url) / "CURRENT").write_bytes(b"\xff\xfe")
    listed = command("ingest", "list", "--store", store_url)
    assert (listed.returncode, listed.stdout) == (0, "")
    assert "gallery 'g' is left out: " in listed.stderr
    assert "write the right one of its versions (v1) into CURRENT" in listed.stderr
    checked = command("ingest", "check", "g", "--store", store_url)
    assert checked.returncode == 3
    assert "Traceback" not in checked.stderr


def test_a_copied_folder_is_a_gallery_of_its_own_name(store_url: str, tmp_path: Path) -> None:
    store = open_store(store_url)
    fill(store)
    shutil.copytree(home(store_url), home(store_url).parent / "copied", copy_function=copy_sparse)
    assert [(spec.name, spec.count) for spec in store.list()] == [("copied", 50), ("g", 50)]
    with closing(store.open("copied")) as gallery:
        assert gallery.spec.name == "copied"
        gallery.upsert(entries(CODES)[:1])
    with closing(store.build(GallerySpec("copied", "seed", "f" * 64, 8))) as build:
        assert build.publish().name == "copied"
    (home(store_url).parent / "copied" / "v1").rename(home(store_url).parent / "copied" / "v7")
    (home(store_url).parent / "copied" / "CURRENT").write_text("v7")
    assert store.spec("copied").version == store.live_version("copied") == 7
    store.backup("copied", tmp_path / "copied.tar.gz")
    assert open_store(f"edge:{tmp_path / 'other'}").restore(tmp_path / "copied.tar.gz").name == "copied"


def test_the_versions_of_a_server_have_the_names_of_their_collections(store: Store) -> None:
    spec = fill(store)
    assert store.live_version("g") == spec.version == 1
    assert store.names() == ["g"]
    assert fill(store, rebuild=True).version == store.live_version("g") == 2
    with pytest.raises(GalleryNotFoundError):
        store.live_version("none")


def test_an_expected_error_is_one_line(store_url: str) -> None:
    fill(open_store(store_url))
    (home(store_url) / "v1" / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(LookalikeError, match=r"manifest\.json: can't be read: nested too deeply") as raised:
        open_store(store_url).open("g")
    assert not isinstance(raised.value, NewerFormatError)
