"""Backups: complete or rejected, and readable on another machine."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from gallery import Store, open_store
from gallery.errors import BackupError, GalleryNotFoundError, StoreDamagedError, StoreLockedError
from tests.gallery.test_stores import CODES, elsewhere, fill, first_key, home


@pytest.fixture
def store(store_url: str) -> Store:
    store = open_store(store_url)
    fill(store)
    return store


@pytest.fixture
def file(store: Store, tmp_path: Path) -> Path:
    store.backup("g", tmp_path / "g.tar.gz")
    return tmp_path / "g.tar.gz"


def test_a_backup_makes_the_same_gallery_elsewhere(file: Path, tmp_path: Path) -> None:
    other = open_store(f"edge:{tmp_path / 'other'}")
    spec = other.restore(file)
    assert (spec.name, spec.version, spec.count, spec.sources) == ("g", 1, 50, ("test",))
    assert other.list() == [spec]
    assert first_key(other, 7) == "k7"
    assert not other.differences("g")


def test_a_backup_comes_back_under_another_name_or_beside_the_live_version(store: Store, file: Path) -> None:
    assert store.restore(file, "h").version == 1
    fill(store, count=10, rebuild=True)
    assert store.restore(file).version == 3
    assert [(spec.name, spec.version, spec.count) for spec in store.list()] == [("g", 3, 50), ("h", 1, 50)]
    assert first_key(store, 40) == "k40"
    assert store.clean("g") == [1, 2]
    assert store.clean("g") == []


def test_a_restored_gallery_can_be_extended(store: Store, file: Path) -> None:
    store.restore(file)
    assert fill(store, count=50).version == 2


def test_a_gallery_can_be_backed_up_while_a_service_has_it_open(store: Store, store_url: str, tmp_path: Path) -> None:
    with elsewhere("gallery = store.open('g')", store_url):
        assert store.backup("g", tmp_path / "a.tar.gz").count == 50
    with (
        elsewhere("build = store.build(store.spec('g'))", store_url),
        pytest.raises(StoreLockedError, match="in use by"),
    ):
        store.backup("g", tmp_path / "b.tar.gz")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.7, 0.99, 0.9999])
@pytest.mark.parametrize("harm", ["cut", "altered"])
def test_a_damaged_backup_is_rejected_and_nothing_changes(store: Store, file: Path, part: float, harm: str) -> None:
    content = bytearray(file.read_bytes())
    position = int(len(content) * part)
    if harm == "cut":
        del content[position:]
    else:
        content[position] ^= 0x55
    file.write_bytes(content)
    before = sorted(home_of(store).parent.rglob("*"))
    try:
        store.restore(file)
    except BackupError as error:
        assert str(file) in str(error)
        assert sorted(home_of(store).parent.rglob("*")) == before
        assert store.spec("g").version == 1
    else:  # the altered byte does not matter: the archive unpacks to the same content
        assert harm == "altered"
        assert not store.differences("g")
        assert store.spec("g").count == 50


def home_of(store: Store) -> Path:
    return home(store.url)


def test_an_altered_file_in_an_intact_archive_is_rejected(store: Store, file: Path, tmp_path: Path) -> None:
    with tarfile.open(file) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
        names = archive.getnames()
    (tmp_path / "unpacked" / "gallery.json").write_text("{}")
    with tarfile.open(file, "w:gz") as archive:
        for name in names:
            archive.add(tmp_path / "unpacked" / name, name, recursive=False)
    with pytest.raises(BackupError, match=r"it has been altered: gallery\.json"):
        store.restore(file)
    assert len(store.list()) == 1


@pytest.mark.parametrize("content", [None, b"", b"text", b"\x1f\x8bcut"])
def test_a_file_that_is_not_a_backup_is_rejected(store: Store, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "no.tar.gz").write_bytes(content)
    with pytest.raises(BackupError, match=r"backup .*no\.tar\.gz: "):
        store.restore(tmp_path / "no.tar.gz")


def test_a_backup_that_cannot_be_written_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="can't be written: No such file or directory: name a file in another folder"):
        store.backup("g", tmp_path / "no" / "g.tar.gz")
    with pytest.raises(GalleryNotFoundError):
        store.backup("none", tmp_path / "none.tar.gz")
    assert not list(tmp_path.glob("*.tar.gz*"))


def test_an_altered_version_or_one_without_a_manifest_is_not_backed_up(store: Store, tmp_path: Path) -> None:
    matrix = next(home_of(store).rglob("*.dat"))
    as_built = matrix.read_bytes()
    matrix.write_bytes(np.random.default_rng(0).bytes(len(as_built)))
    with pytest.raises(BackupError, match="is not as it was built"):
        store.backup("g", tmp_path / "g.tar.gz")
    matrix.write_bytes(as_built)
    (home_of(store) / "v1" / "manifest.json").unlink()
    with pytest.raises(StoreDamagedError, match="a load into this version was interrupted: run the same"):
        store.backup("g", tmp_path / "g.tar.gz")
    assert not (tmp_path / "g.tar.gz").exists()


def test_clean_keeps_a_version_that_another_process_has_open(store: Store, store_url: str) -> None:
    with elsewhere("gallery = store.open('g')", store_url):
        fill(store, rebuild=True)
        assert store.clean("g") == []
    assert store.clean("g") == [1]
    assert first_key(store, 3) == "k3"
    assert len(CODES) == store.spec("g").count
