"""No load takes from a gallery what it can't put back: other sources' images, changed images, removed images."""

import hashlib
import io
import json
import shutil
import sqlite3
import tarfile
import warnings
import zipfile
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from encoder_service.encoder import Encoder
from gallery import Entry, GallerySpec, Store, open_store
from ingest.errors import RejectedError
from ingest.loading.batches import LoadSummary
from ingest.loading.build import LoadOptions, load_and_publish
from ingest.loading.keys import with_ledger_keys
from ingest.loading.ledger import FILE, Ledger, Row, Status
from ingest.loading.rebuild import live_version
from ingest.loading.verify import check
from ingest.progress import Stages
from ingest.sources import open_source
from tests import digits
from tests.commands import Command

DEFAULTS = LoadOptions()
PRUNE = LoadOptions(prune=True)


@pytest.fixture
def store(store_url: str) -> Store:
    return open_store(store_url)


def fill(folder: Path, first: int, count: int, names: Iterable[str] = ()) -> Path:
    """Write digits, beginning with the given one, into a folder, under numbers or under names."""
    folder.mkdir(parents=True, exist_ok=True)
    images = digits.read("train")[0][first : first + count]
    for name, pixels in zip(names or map(str, range(count)), images, strict=True):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def load(
    store: Store,
    encoder: Encoder,
    place: Path | str,
    options: LoadOptions = DEFAULTS,
    *,
    rebuild: bool = False,
    labels: Path | None = None,
) -> LoadSummary:
    source = open_source(str(place), labels=labels)
    spec = GallerySpec("g", encoder.spec.name, encoder.spec.fingerprint, encoder.spec.code_size, sources=(source.name,))
    if not rebuild:
        with closing(store.build(spec)) as build:
            return load_and_publish(build, source, encoder, Stages(), options)[1]
    with (
        live_version(store, spec, Stages().say, must_copy=options.keep_added) as live,
        closing(store.build(spec, rebuild=True)) as build,
    ):
        return load_and_publish(build, source, encoder, Stages(), options, live)[1]


def stored(store: Store) -> dict[str, Entry]:
    with closing(store.open("g")) as gallery:
        return {entry.key: entry for batch in gallery.scroll() for entry in batch}


def numbered(prefix: str, count: int) -> set[str]:
    return {f"{prefix}/{index}.png" for index in range(count)}


def test_two_folders_of_one_name_are_two_sources(store: Store, encoder: Encoder, tmp_path: Path) -> None:
    ada, bob = fill(tmp_path / "ada" / "DCIM", 0, 4), fill(tmp_path / "bob" / "DCIM", 10, 3)
    load(store, encoder, ada)
    assert load(store, encoder, bob).added == 3
    assert stored(store).keys() == numbered("DCIM", 4) | numbered("bob/DCIM", 3)
    for place, count in ((bob, 3), (ada, 4)):
        again = load(store, encoder, place, PRUNE)
        assert (again.added, again.unchanged, again.pruned) == (0, count, 0)
    (bob / "2.png").unlink()
    assert load(store, encoder, bob, PRUNE).pruned == 1
    assert stored(store).keys() == numbered("DCIM", 4) | numbered("bob/DCIM", 2)
    assert check(store, "g", 6, Stages()) == ([], 6)


def test_archives_and_arrays_of_one_name_are_sources_of_their_own(
    store: Store, encoder: Encoder, tmp_path: Path
) -> None:
    folder = fill(tmp_path / "s", 0, 2)
    shutil.make_archive(str(tmp_path / "s"), "tar", fill(tmp_path / "x", 10, 2))
    shutil.make_archive(str(tmp_path / "s"), "zip", fill(tmp_path / "y", 20, 2))
    for place in (folder, tmp_path / "s.tar", tmp_path / "s.zip"):
        assert load(store, encoder, place).added == 2
    for place in (tmp_path / "s.zip", folder, tmp_path / "s.tar"):
        assert load(store, encoder, place, PRUNE).unchanged == 2
    assert stored(store).keys() == numbered("s", 2) | numbered("s.tar", 2) | numbered("s.zip", 2)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_of_a_name_twice_in_an_archive_the_last_counts_once(
    store: Store, encoder: Encoder, tmp_path: Path, kind: str
) -> None:
    first, last, other = (path.read_bytes() for path in sorted(fill(tmp_path / "x", 0, 3).iterdir()))
    files = [("a.png", first), ("b.png", other), ("./a.png", first), ("a.png", last)]
    archive = tmp_path / f"s.{kind}"
    if kind == "tar":
        with tarfile.open(archive, "w") as tar:
            for name, content in files:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    else:
        with zipfile.ZipFile(archive, "w") as zipped, warnings.catch_warnings(action="ignore"):
            for name, content in files:
                zipped.writestr(name, content)
    assert load(store, encoder, archive).added == 2
    for _ in range(2):
        again = load(store, encoder, archive)
        assert (again.added, again.unchanged, again.rejected) == (0, 2, 0)
    entries = stored(store)
    assert entries.keys() == {"s/a.png", "s/b.png"}
    assert entries["s/a.png"].sha256 == hashlib.sha256(last).hexdigest()


def test_one_image_of_a_folder_has_the_key_that_the_folder_gives_it(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 0, 3)

    one = str(folder / "1.png")
    with closing(Ledger(tmp_path)) as ledger:
        for source in (open_source(one), open_source(str(folder)), open_source(one)):
            items = list(with_ledger_keys(source, ledger, print))
            ledger.record([Row(item.key, Status.OK, item.sha256) for item in items], source)
            assert {item.key for item in items} <= numbered("photos", 3)


@pytest.mark.parametrize("is_same", [True, False])
def test_a_source_elsewhere_is_the_same_only_if_its_images_are(
    store: Store, encoder: Encoder, tmp_path: Path, is_same: bool
) -> None:
    load(store, encoder, fill(tmp_path / "card1" / "DCIM", 0, 4))
    moved = tmp_path / "card2" / "DCIM"
    shutil.move(tmp_path / "card1" / "DCIM", moved)
    if not is_same:
        fill(moved, 20, 4)
    summary = load(store, encoder, moved, PRUNE)
    if is_same:
        assert (summary.unchanged, summary.pruned) == (4, 0)
        assert stored(store).keys() == numbered("DCIM", 4)
    else:
        assert (summary.added, summary.pruned) == (4, 0)
        assert stored(store).keys() == numbered("DCIM", 4) | numbered("card2/DCIM", 4)


def test_a_ledger_that_knew_sources_by_name_keeps_its_keys(store: Store, encoder: Encoder, tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", 0, 5)
    load(store, encoder, photos)
    with closing(sqlite3.connect(store.local_folder("g") / FILE)) as file, file:
        file.executescript(
            "DROP TABLE sources; CREATE TABLE sources (id INTEGER PRIMARY KEY, name TEXT UNIQUE, place TEXT);"
            f"INSERT INTO sources VALUES (1, 'photos[:3]', '{photos}'), (2, 'photos', '{photos}');"
            "UPDATE items SET source = 1 + (key > 'photos/2.png'); PRAGMA user_version = 1;"
        )
    (photos / "0.png").unlink()
    other = fill(tmp_path / "other" / "photos", 20, 2)
    assert load(store, encoder, other).added == 2
    again = load(store, encoder, photos, PRUNE)
    assert (again.unchanged, again.pruned) == (4, 1)
    assert stored(store).keys() == numbered("photos", 5) - {"photos/0.png"} | numbered("other/photos", 2)


def test_a_gallery_from_a_service_keeps_its_images_of_other_places(
    store: Store, encoder: Encoder, tmp_path: Path
) -> None:
    load(store, encoder, fill(tmp_path / "photos", 0, 3))
    with closing(store.open("g")) as gallery:
        (entry,) = gallery.get(["photos/0.png"])
        assert entry
        gallery.upsert([Entry(f"DCIM/{index}.png", entry.code, sha256=f"{index:064x}") for index in range(3)])
    load(store, encoder, fill(tmp_path / "DCIM", 20, 3), PRUNE)
    assert load(store, encoder, tmp_path / "photos", PRUNE).pruned == 0
    parent = tmp_path.name
    assert stored(store).keys() == numbered("photos", 3) | numbered("DCIM", 3) | numbered(f"{parent}/DCIM", 3)


def test_no_image_is_lost_or_replaced_if_too_many_are_bad(store: Store, encoder: Encoder, tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", 0, 10)
    load(store, encoder, photos)
    before = {key: entry.sha256 for key, entry in stored(store).items()}
    for index in (0, 1, 2):
        (photos / f"{index}.png").write_bytes(b"")
    (photos / "3.png").write_bytes((photos / "9.png").read_bytes())
    (photos / "4.png").unlink()
    fill(photos, 30, 1, ["new"])
    summary = load(store, encoder, photos, PRUNE)
    assert (summary.added, summary.held, summary.rejected, summary.pruned) == (1, 1, 3, 0)
    after = {key: entry.sha256 for key, entry in stored(store).items()}
    assert after.keys() == before.keys() | {"photos/new.png"}
    assert before.items() <= after.items()
    assert check(store, "g", 11, Stages())[0] == []
    again = load(store, encoder, photos, LoadOptions(prune=True, max_rejected=50))
    assert (again.added, again.held, again.rejected, again.pruned) == (1, 0, 3, 4)
    after = {key: entry.sha256 for key, entry in stored(store).items()}
    assert after.keys() == {f"photos/{name}.png" for name in (3, 5, 6, 7, 8, 9, "new")}
    assert after["photos/3.png"] == after["photos/9.png"]
    assert not list(store.local_folder("g").glob("staged*"))


def test_an_image_that_has_gone_bad_stays_until_prune(store: Store, encoder: Encoder, tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", 0, 12)
    load(store, encoder, photos)
    (photos / "0.png").write_bytes(b"no longer an image")
    for _ in range(2):
        summary = load(store, encoder, photos)
        assert (summary.unchanged, summary.rejected) == (11, 1)
        assert stored(store).keys() == numbered("photos", 12)
    assert load(store, encoder, photos, PRUNE).pruned == 1
    assert "photos/0.png" not in stored(store)
    again = load(store, encoder, photos, PRUNE)
    assert (again.unchanged, again.rejected, again.pruned) == (11, 1, 0)
    (line,) = (store.local_folder("g") / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "photos/0.png"
    fill(photos, 0, 12)
    assert load(store, encoder, photos).added == 1


def test_most_images_are_pruned_only_if_the_user_says_so(command: Command, store_url: str, tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", 0, 5)
    assert command("ingest", "load", str(photos), "--store", store_url).returncode == 0
    for index in range(3):
        (photos / f"{index}.png").unlink()
    prune = ("ingest", "load", str(photos), "--prune", "--store", store_url)
    done = command(*prune)
    assert done.returncode == 3
    assert "--prune would remove 3 images, more than half of the source's, and has removed none" in done.stderr
    assert [spec.count for spec in open_store(store_url).list()] == [5]
    assert command(*prune, "--yes").returncode == 0
    assert [spec.count for spec in open_store(store_url).list()] == [2]


def test_an_unmounted_source_takes_nothing(command: Command, store_url: str, tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", 0, 5)
    command("ingest", "load", str(photos), "--store", store_url)
    for path in photos.iterdir():
        path.unlink()
    (photos / "NOT_MOUNTED.png").write_text("mount the disk here")
    for options in (("--prune",), ("--strict", "--prune"), ("--strict",)):
        done = command("ingest", "load", str(photos), *options, "--store", store_url)
        assert done.returncode == 3
        assert "bad images, got 1 of 1" in done.stderr
        assert "no stored image was replaced or removed" in done.stderr
    assert [spec.count for spec in open_store(store_url).list()] == [5]
    assert command("ingest", "check", "photos", "--store", store_url).returncode == 0


def test_a_rebuild_from_less_than_half_of_the_images_must_be_confirmed(
    store: Store, encoder: Encoder, tmp_path: Path
) -> None:
    photos = fill(tmp_path / "photos", 0, 5)
    load(store, encoder, photos)
    for index in range(3):
        (photos / f"{index}.png").unlink()
    with pytest.raises(RejectedError, match="no longer has 3 of its 5 images in the live version, which stays"):
        load(store, encoder, photos, PRUNE, rebuild=True)
    assert stored(store).keys() == numbered("photos", 5)
    load(store, encoder, photos, LoadOptions(prune=True, prune_most=True), rebuild=True)
    assert len(stored(store)) == 2


def test_a_label_that_a_service_would_reject_is_rejected(store: Store, encoder: Encoder, tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", 0, 2)
    labels = tmp_path / "labels.csv"
    labels.write_text(f"0.png,{'x' * 1025}\n1.png,{'x' * 1024}\n")
    summary = load(store, encoder, photos, labels=labels)
    assert (summary.added, summary.rejected) == (1, 1)
    (line,) = (store.local_folder("g") / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"].endswith("label: expected at most 1,024 characters, got 1,025")


def test_a_rebuild_keeps_labels_that_the_source_does_not_give(store: Store, encoder: Encoder, tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", 0, 3)
    labels = tmp_path / "labels.csv"
    labels.write_text("0.png,zero\n1.png,one\n")
    load(store, encoder, photos, labels=labels)
    assert load(store, encoder, photos, rebuild=True).kept_labels == 2
    assert {key: entry.label for key, entry in stored(store).items()} == {
        "photos/0.png": "zero",
        "photos/1.png": "one",
        "photos/2.png": "",
    }
    labels.write_text("0.png,other\n")
    assert load(store, encoder, photos, rebuild=True, labels=labels).kept_labels == 0
    assert {entry.label for entry in stored(store).values()} == {"other", ""}


@pytest.mark.parametrize("keep", [True, False])
def test_a_rebuild_keeps_or_counts_the_images_of_others(
    store: Store, encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: bool
) -> None:
    photos, other = fill(tmp_path / "photos", 0, 4), fill(tmp_path / "bob" / "photos", 10, 3)
    load(store, encoder, photos)
    load(store, encoder, other)
    with closing(store.open("g")) as gallery:
        (entry,) = gallery.get(["bob/photos/0.png"])
        assert entry
        gallery.upsert([Entry("service/1", entry.code, "seven", "f" * 64)])
    (photos / "0.png").unlink()
    before = stored(store)
    summary = load(store, encoder, photos, LoadOptions(prune=True, prune_most=True, keep_added=keep), rebuild=True)
    assert (summary.kept, summary.left_out) == ((4, 0) if keep else (0, 4))
    kept = numbered("bob/photos", 3) | {"service/1"} if keep else set()
    after = stored(store)
    assert after.keys() == numbered("photos", 4) - {"photos/0.png"} | kept
    assert ("left out 4 images added through a service or loaded from elsewhere (first: 'bob/photos/0.png')"
            in capsys.readouterr().err) is not keep  # fmt: skip
    for key in kept:
        assert (after[key].code == before[key].code).all()
        assert after[key].label == before[key].label
    assert check(store, "g", 20, Stages())[0] == []
    again = load(store, encoder, other)  # its keys stay, whether or not it was left out
    assert (again.unchanged, again.added) == ((3, 0) if keep else (0, 3))
    assert numbered("bob/photos", 3) <= stored(store).keys()


def test_a_rebuild_keeps_what_a_service_has_added_if_it_has_deleted_as_many(
    store: Store, encoder: Encoder, tmp_path: Path
) -> None:
    photos = fill(tmp_path / "photos", 0, 4)
    load(store, encoder, photos)
    with closing(store.open("g")) as gallery:
        (entry, other) = gallery.get(["photos/0.png", "photos/1.png"])
        assert entry and other
        gallery.upsert([Entry("service/1", entry.code, "seven", "f" * 64)])
        gallery.upsert([replace(other, label="relabelled")])
        gallery.delete(["photos/0.png"])
    (photos / "0.png").unlink()
    summary = load(store, encoder, photos, LoadOptions(prune=True, keep_added=True), rebuild=True)
    assert summary.kept == 1
    after = stored(store)
    assert after.keys() == numbered("photos", 4) - {"photos/0.png"} | {"service/1"}
    assert after["photos/1.png"].label == "relabelled"


def test_an_image_that_was_too_large_is_loaded_once_that_is_allowed(
    store: Store, encoder: Encoder, tmp_path: Path
) -> None:
    photos = fill(tmp_path / "photos", 0, 3)
    Image.new("1", (8001, 8000)).save(photos / "fax.png")
    assert load(store, encoder, photos, LoadOptions(max_rejected=50)).rejected == 1
    source = open_source(str(photos), large_images=True)
    spec = GallerySpec("g", encoder.spec.name, encoder.spec.fingerprint, encoder.spec.code_size)
    with closing(store.build(spec)) as build:
        summary = load_and_publish(build, source, encoder, Stages(), DEFAULTS)[1]
    assert (summary.added, summary.unchanged, summary.rejected) == (1, 3, 0)
