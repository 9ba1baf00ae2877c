"""Stores that this process may not write: their galleries can be searched, and nothing else."""

import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from gallery import Entry, Store, open_store
from gallery.errors import StoreDamagedError, StoreLockedError, StoreUnusableError
from tests.gallery.test_damage import ADD, fill
from tests.gallery.test_stores import CODES, SPEC, elsewhere, first_key, home


@pytest.fixture
def read_only(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    scratch.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    store = open_store(store_url)
    fill(store)
    return store


def make_read_only(store: Store) -> None:
    root = Path(store.url.removeprefix("edge:"))
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


def test_a_gallery_that_cannot_be_written_is_searched_and_not_modified(
    read_only: Store, tmp_path: Path, unprivileged: Callable[[], None]
) -> None:
    make_read_only(read_only)
    unprivileged()
    root = Path(read_only.url.removeprefix("edge:"))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert [spec.count for spec in read_only.list()] == [50]
    with closing(read_only.open("g")) as gallery:
        assert gallery.count() == 50
        with pytest.raises(StoreUnusableError, match="gallery 'g' can only be searched: this process may not"):
            gallery.upsert([Entry("new", CODES[0])])
        with pytest.raises(StoreUnusableError, match="gallery 'g' can only be searched"):
            gallery.delete(["k3"])
        assert len(list((tmp_path / "scratch").iterdir())) == 1
    assert first_key(read_only, 3) == "k3"
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert not list((tmp_path / "scratch").iterdir())
    with pytest.raises(StoreUnusableError, match="Permission denied"):
        read_only.build(SPEC)


def test_a_gallery_that_another_process_is_modifying_is_not_copied(
    read_only: Store, unprivileged: Callable[[], None]
) -> None:
    with elsewhere(ADD, read_only.url):
        make_read_only(read_only)
        unprivileged()
        with pytest.raises(StoreLockedError, match="gallery 'g' is in use by process"):
            read_only.open("g")
    with closing(read_only.open("g")) as gallery:
        assert gallery.count() == 60


def test_lost_files_are_noticed_here_too(read_only: Store, tmp_path: Path, unprivileged: Callable[[], None]) -> None:
    next((home(read_only.url) / "v1").glob("shard/segments/*/segment.json")).unlink()
    make_read_only(read_only)
    unprivileged()
    with pytest.raises(StoreDamagedError, match=r"can't be opened: shard/segments/.*/segment\.json is missing"):
        read_only.open("g")
    assert not list((tmp_path / "scratch").iterdir())


def test_copies_that_killed_processes_have_left_are_removed(
    read_only: Store, tmp_path: Path, unprivileged: Callable[[], None]
) -> None:
    make_read_only(read_only)
    unprivileged()
    left = tmp_path / "scratch" / "lookalike-snapshot-left"
    left.mkdir()
    (left / "OPEN").touch()
    with closing(read_only.open("g")):
        (copy,) = (tmp_path / "scratch").iterdir()
        assert copy != left
        with closing(read_only.open("g")):
            assert copy.exists()
