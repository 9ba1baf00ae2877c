"""Live versions that are modified: however the modifying process ends, the version is recorded as it is."""

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder_service.encoder import Encoder
from gallery import Entry, Store, open_store
from gallery.errors import StoreLockedError
from ingest.loading.verify import check
from ingest.progress import Stages
from tests import digits
from tests.commands import Command
from tests.digits import entries
from tests.gallery.test_damage import ADD, fill
from tests.gallery.test_stores import CODES, SPEC, elsewhere, first_key, home

COUNT = 60  # entries of g after ADD


@pytest.fixture
def edge(store_url: str) -> Store:
    store = open_store(store_url)
    fill(store)
    return store


def assert_recorded(store: Store) -> None:
    """Check that the manifest is right, and stays right when the gallery is opened and searched."""
    assert store.differences("g") == []
    for _ in range(2):
        first_key(store, 3)
        assert store.differences("g") == []


def test_the_changes_of_a_killed_process_are_recorded_by_the_next_comparison(edge: Store, store_url: str) -> None:
    with elsewhere(ADD, store_url):
        pass  # killed at the end of the block
    assert edge.spec("g").count == 50
    assert_recorded(edge)
    assert edge.spec("g").count == COUNT
    assert edge.modified_by_service("g")


def test_the_changes_of_a_killed_process_are_recorded_by_the_next_backup(
    edge: Store, store_url: str, tmp_path: Path
) -> None:
    with elsewhere(ADD, store_url):
        pass
    assert edge.backup("g", tmp_path / "g.tar.gz").count == COUNT
    other = open_store(f"edge:{tmp_path / 'other'}")
    assert other.restore(tmp_path / "g.tar.gz").count == COUNT
    assert other.modified_by_service("g")
    with closing(other.open("g")) as gallery:
        assert None not in gallery.get([f"k{i}" for i in range(COUNT)])


def test_the_changes_of_a_killed_process_are_recorded_by_the_next_that_opens_the_gallery(
    edge: Store, store_url: str
) -> None:
    for _ in range(2):
        with elsewhere(ADD, store_url):
            pass
    edge.open("g").close()
    assert (home(store_url) / "v1" / "manifest.json").exists()
    assert edge.spec("g").count == COUNT
    assert_recorded(edge)


def test_a_running_process_that_has_modified_a_gallery_must_end_first(
    edge: Store, store_url: str, tmp_path: Path, command: Command
) -> None:
    with elsewhere(ADD, store_url) as holder:
        for attempt in (edge.differences, lambda name: edge.backup(name, tmp_path / "g.tar.gz")):
            with pytest.raises(StoreLockedError, match=f"gallery 'g' is in use by process {holder.pid}"):
                attempt("g")
        for arguments in (("check", "g"), ("backup", "g", str(tmp_path / "g.tar.gz"))):
            done = command("ingest", *arguments, "--store", store_url)
            assert (done.returncode, "wait for it or stop it" in done.stderr) == (5, True)
            assert "--rebuild" not in done.stdout + done.stderr


def test_a_backup_during_which_a_service_modifies_the_gallery_is_not_made(
    edge: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gallery.edge import backup
    from gallery.errors import BackupError

    with closing(edge.open("g")) as gallery:
        add = backup._add

        def add_and_modify(*arguments: object) -> None:
            gallery.upsert(entries(CODES[:1]))
            add(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(backup, "_add", add_and_modify)
        with pytest.raises(BackupError, match="was modified during the backup: run the same command again"):
            edge.backup("g", tmp_path / "g.tar.gz")
    assert not list(tmp_path.glob("g.tar.gz*"))


def test_a_build_that_changes_nothing_leaves_the_live_version_as_it_was(edge: Store) -> None:
    edge.build(SPEC).close()
    assert_recorded(edge)
    assert not edge.modified_by_service("g")
    assert edge.spec("g").count == 50


@pytest.mark.parametrize("end", ["closed", "killed", "killed while indexing"])
def test_a_build_that_ends_before_it_publishes_leaves_a_live_version_in_order(
    edge: Store, store_url: str, end: str
) -> None:
    if end == "closed":
        with closing(edge.build(SPEC)) as build:
            build.gallery.upsert(entries(np.random.default_rng(7).random((COUNT, 8), np.float32)))
    else:
        indexing = "    gallery.index()\n" if end == "killed while indexing" else ""
        with elsewhere(ADD.replace("store.open('g')", "store.build(store.spec('g')).gallery") + indexing, store_url):
            pass
    assert_recorded(edge)
    assert edge.spec("g").count == COUNT
    assert edge.modified_by_service("g")
    with closing(edge.build(SPEC)) as build:
        assert build.modified_by_service
        build.publish()
    assert not edge.modified_by_service("g")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, pixels in enumerate(digits.read("train")[0][:12]):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_a_refused_load_leaves_a_gallery_that_passes_the_check_and_can_be_backed_up(
    command: Command, store_url: str, photos: Path, tmp_path: Path
) -> None:
    load = ("ingest", "load", str(photos), "--store", store_url)
    assert command(*load).returncode == 0
    labels = tmp_path / "labels.csv"
    labels.write_text("file,label\nno-such.png,cat\n")
    assert command(*load, "--labels", str(labels)).returncode == 3
    (photos / "new.png").write_bytes((photos / "3.png").read_bytes())
    for index in range(5):
        (photos / f"bad{index}.png").write_bytes(b"not an image")
    assert command(*load, "--strict").returncode == 3
    checked = command("ingest", "check", "photos", "--store", store_url)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "sound: 13 images" in checked.stdout
    assert command("ingest", "backup", "photos", str(tmp_path / "p.tar.gz"), "--store", store_url).returncode == 0


def test_a_gallery_that_has_grown_passes_the_check_once_it_is_restored(
    store_url: str, encoder: Encoder, tmp_path: Path
) -> None:
    store = open_store(store_url)
    digits.build(store, encoder, "g", 20)
    with closing(store.open("g")) as gallery:
        gallery.upsert([Entry("added", np.ones(128, np.float32), sha256="a" * 64)])
    store.backup("g", tmp_path / "g.tar.gz")
    other = open_store(f"edge:{tmp_path / 'other'}")
    other.restore(tmp_path / "g.tar.gz")
    assert check(other, "g", 0, Stages()) == ([], 0)
    shutil.rmtree(tmp_path / "other")
    digits.build(store, encoder, "g", 20)
    store.backup("g", tmp_path / "g.tar.gz")
    other.restore(tmp_path / "g.tar.gz")
    assert not other.modified_by_service("g")
