"""The ledger: its format, its errors, and what it knows of a gallery that others have modified."""

import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from encoder_service.encoder import Encoder
from gallery import GallerySpec, Store, open_store
from gallery.errors import NewerFormatError, StoreDamagedError, StoreFullError
from ingest.loading.build import load_and_publish
from ingest.loading.keys import with_ledger_keys
from ingest.loading.ledger import FILE, Ledger, Row, Status
from ingest.loading.verify import check
from ingest.progress import Stages
from ingest.sources import Source, open_source
from tests import digits

RELEASE_0_1_0 = Path(__file__).parents[1] / "data" / "release-0.1.0" / "store.tar.gz"


def user_version(folder: Path) -> int:
    with closing(sqlite3.connect(folder / FILE)) as file:
        version: int = file.execute("PRAGMA user_version").fetchone()[0]
        return version


def set_user_version(folder: Path, version: int) -> None:
    with closing(sqlite3.connect(folder / FILE)) as file:
        file.execute(f"PRAGMA user_version = {version}")


@pytest.fixture
def old_store(tmp_path: Path) -> Store:
    """A store that release 0.1.0 wrote, with a gallery of 40 images, `digits`."""
    with tarfile.open(RELEASE_0_1_0) as archive:
        archive.extractall(tmp_path / "store", filter="data")
    return open_store(f"edge:{tmp_path / 'store'}")


@pytest.fixture
def photos(tmp_path: Path) -> Source:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, pixels in enumerate(digits.read("t10k")[0][:5]):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return open_source(str(folder))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path)) as ledger:
        yield ledger


def test_a_new_ledger_has_a_format_number(ledger: Ledger, tmp_path: Path) -> None:
    ledger.record([Row("digits/train/0", Status.OK, "0" * 64)], digits.Digits(1))
    assert user_version(tmp_path) == 3


def test_a_ledger_of_release_0_1_0_is_read_unchanged_and_upgraded_by_the_next_load(
    old_store: Store, photos: Source, encoder: Encoder
) -> None:
    assert [(spec.name, spec.count, spec.sources) for spec in old_store.list()] == [("digits", 40, ("digits",))]
    folder = old_store.local_folder("digits")
    assert user_version(folder) == 0
    for _ in range(2):  # the first check must leave the ledger as its checksum says
        assert check(old_store, "digits", 10, Stages()) == ([], 0)
    assert user_version(folder) == 0
    spec = GallerySpec(
        "digits", encoder.spec.name, encoder.spec.fingerprint, encoder.spec.code_size, sources=(photos.name,)
    )
    with closing(old_store.build(spec)) as build:
        loaded, summary = load_and_publish(build, photos, encoder, Stages())
    assert (loaded.count, loaded.sources, summary.added) == (45, ("digits", "photos"), 5)
    assert user_version(folder) == 3
    assert check(old_store, "digits", 45, Stages()) == ([], 5)


def test_the_errors_of_an_earlier_release_are_dropped_once_by_whoever_writes_first(
    old_store: Store, photos: Source
) -> None:
    folder = old_store.local_folder("digits")
    with closing(Ledger(folder)) as one, closing(Ledger(folder)) as other:
        assert one.errors() == []
        one.record([Row("photos/0.png", Status.OK, "0" * 64, error=0.5)], photos)
        other.record([Row("photos/1.png", Status.OK, "1" * 64, error=0.25)], photos)
        assert sorted(one.errors()) == sorted(other.errors()) == [0.25, 0.5]


def test_a_ledger_of_a_newer_release_is_refused_and_unchanged(ledger: Ledger, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    newer.mkdir()
    ledger.copy_to(newer)
    set_user_version(newer, 4)
    before = (newer / FILE).read_bytes()
    with pytest.raises(NewerFormatError, match=r"ledger\.sqlite: made by a newer Lookalike: expected format 3"):
        Ledger(newer)
    assert (newer / FILE).read_bytes() == before


def test_a_file_that_is_not_a_ledger_is_damaged(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a ledger" * 100)
    with pytest.raises(StoreDamagedError, match="expected a ledger"):
        Ledger(tmp_path)


def test_a_full_disk_is_told_apart_from_other_failures(ledger: Ledger) -> None:
    rows = [Row(f"digits/train/{index}", Status.OK, f"{index:064x}") for index in range(10_000)]
    ledger._rows.execute("PRAGMA max_page_count = 20")  # what SQLite reports is what it reports for a full disk
    with pytest.raises(StoreFullError, match="the disk is full"):
        ledger.record(rows, digits.Digits(1))
    assert ledger.counts()[Status.OK] == 0


def test_a_source_that_has_been_moved_keeps_its_keys(ledger: Ledger, photos: Source, tmp_path: Path) -> None:
    notes: list[str] = []
    items = list(with_ledger_keys(photos, ledger, notes.append))
    ledger.record([Row(item.key, Status.OK, item.sha256) for item in items], photos)
    assert list(ledger.sample(1)) == [photos.place] == [str(tmp_path / "photos")]
    moved = open_source(str(shutil.move(photos.place, tmp_path / "elsewhere" / "photos")))
    assert [item.key for item in with_ledger_keys(moved, ledger, notes.append)] == [item.key for item in items]
    assert list(ledger.sample(1)) == [str(tmp_path / "elsewhere" / "photos")]
    (note,) = notes
    assert note.endswith(f" has the images that were loaded from {tmp_path / 'photos'}: they keep their keys")


def test_each_source_prunes_its_own_images(ledger: Ledger, photos: Source) -> None:
    ledger.record([Row(f"digits/train/{index}", Status.OK, f"{index:064x}") for index in range(3)], digits.Digits(3))
    ledger.record([Row("photos/0.png", Status.OK, "f" * 64)], photos)
    ledger.see(["digits/train/1"])
    deleted: list[str] = []
    assert ledger.prune(digits.Digits(3), deleted.extend) == 2
    assert sorted(deleted) == ["digits/train/0", "digits/train/2"]
    assert ledger.look_up(["digits/train/1", "photos/0.png"]).keys() == {"digits/train/1", "photos/0.png"}
