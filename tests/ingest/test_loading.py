"""Loads: no image is lost, none is loaded twice, and every bad image is named."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder_service.encoder import MODELS, Encoder
from gallery import Entry, GallerySpec, Query, Store, open_store
from gallery.errors import StoreDamagedError
from ingest.errors import SourceError
from ingest.loading.batches import LoadSummary
from ingest.loading.build import LoadOptions, load_and_publish
from ingest.progress import Stages
from ingest.sources import Item, Source, open_source
from tests import digits
from tests.commands import BIN, Command

DEFAULTS = LoadOptions()


@pytest.fixture
def store(store_url: str) -> Store:
    return open_store(store_url)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, pixels in enumerate(digits.read("train")[0][:12]):
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


def load(
    store: Store, encoder: Encoder, source: Path | Source, options: LoadOptions = DEFAULTS, rebuild: bool = False
) -> LoadSummary:
    images = open_source(str(source)) if isinstance(source, Path) else source
    spec = GallerySpec("g", encoder.spec.name, encoder.spec.fingerprint, encoder.spec.code_size, sources=(images.name,))
    with closing(store.build(spec, rebuild=rebuild)) as build:
        return load_and_publish(build, images, encoder, Stages(), options)[1]


def stored(store: Store) -> dict[str, Entry]:
    with closing(store.open("g")) as gallery:
        return {entry.key: entry for batch in gallery.scroll() for entry in batch}


def rejected(store: Store) -> list[dict[str, str]]:
    path = store.local_folder("g") / "rejected.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_loading_again_does_no_image_twice(store: Store, encoder: Encoder, photos: Path) -> None:
    first, before = load(store, encoder, photos), stored(store)
    again = load(store, encoder, photos)
    assert (first.added, first.unchanged) == (12, 0)
    assert (again.added, again.unchanged) == (0, 12)
    assert stored(store).keys() == before.keys() == {f"photos/{i:02}.png" for i in range(12)}


def test_a_changed_image_is_encoded_again_and_the_others_are_not(store: Store, encoder: Encoder, photos: Path) -> None:
    load(store, encoder, photos)
    before = stored(store)
    shutil.copy(photos / "00.png", photos / "01.png")
    again = load(store, encoder, photos)
    assert (again.added, again.unchanged) == (1, 11)
    after = stored(store)
    np.testing.assert_array_equal(after["photos/01.png"].code, after["photos/00.png"].code)
    assert after["photos/01.png"].sha256 != before["photos/01.png"].sha256


def test_new_labels_reach_the_gallery(store: Store, encoder: Encoder, photos: Path) -> None:
    load(store, encoder, photos)
    # the images are in the source's own folder, which gives no labels
    assert load(store, encoder, open_source(str(photos), label_from_folders=True)).added == 0
    (photos.parent / "labels.csv").write_text("03.png,three\n")
    assert load(store, encoder, open_source(str(photos), labels=photos.parent / "labels.csv")).relabelled == 1
    assert {entry.label for entry in stored(store).values()} == {"", "three"}
    assert load(store, encoder, photos).unchanged == 12  # a source without labels changes none
    assert stored(store)["photos/03.png"].label == "three"


def test_prune_removes_what_has_left_its_own_source_only(store: Store, encoder: Encoder, photos: Path) -> None:
    load(store, encoder, photos)
    load(store, encoder, digits.Digits(5))
    (photos / "00.png").unlink()
    assert load(store, encoder, photos).pruned == 0
    assert len(stored(store)) == 17
    assert load(store, encoder, photos, LoadOptions(prune=True)).pruned == 1
    assert stored(store).keys() == {f"photos/{i:02}.png" for i in range(1, 12)} | {
        f"digits/train/{i}" for i in range(5)
    }


def test_nothing_is_pruned_when_the_source_disappears(store: Store, encoder: Encoder, photos: Path) -> None:
    load(store, encoder, photos)

    class Disappearing:
        name, place, count, notes = "photos", str(photos), 12, ()

        def __iter__(self) -> Iterator[Item]:
            yield from list(open_source(str(photos), limit=3))
            raise SourceError("it disappeared")

    with pytest.raises(SourceError, match="it disappeared"):
        load(store, encoder, Disappearing(), LoadOptions(prune=True))
    assert len(stored(store)) == 12
    assert load(store, encoder, photos).unchanged == 12


def test_duplicates_are_kept_unless_dedupe_says_otherwise(store: Store, encoder: Encoder, photos: Path) -> None:
    shutil.copy(photos / "00.png", photos / "zz.png")
    shutil.copy(photos / "00.png", photos / "zzz.png")
    assert load(store, encoder, photos, LoadOptions(dedupe=True)).duplicates == 2
    assert len(stored(store)) == 12
    again = load(store, encoder, photos, LoadOptions(dedupe=True))
    assert (again.added, again.unchanged, again.duplicates) == (0, 12, 2)
    assert load(store, encoder, photos).added == 2
    assert len(stored(store)) == 14


@pytest.mark.parametrize("fate", ["changed", "pruned"])
def test_a_duplicate_is_loaded_when_its_original_has_left_the_gallery(
    store: Store, encoder: Encoder, photos: Path, fate: str
) -> None:
    shutil.copy(photos / "00.png", photos / "zz.png")
    load(store, encoder, photos, LoadOptions(dedupe=True))
    if fate == "changed":
        Image.new("L", (28, 28), 99).save(photos / "00.png")
    else:
        (photos / "00.png").unlink()
    again = load(store, encoder, photos, LoadOptions(dedupe=True, prune=True))
    assert (again.unchanged, again.duplicates, again.seen) == (11, 0, 13 if fate == "changed" else 12)
    assert "photos/zz.png" in stored(store)
    assert len(stored(store)) == (13 if fate == "changed" else 12)


def test_bad_images_are_named_and_the_others_are_loaded(store: Store, encoder: Encoder, photos: Path) -> None:
    (photos / "cut.png").write_bytes((photos / "00.png").read_bytes()[:60])
    (photos / "empty.png").touch()
    summary = load(store, encoder, photos)
    assert (summary.added, summary.rejected) == (12, 2)
    assert [(row["key"], row["source"]) for row in rejected(store)] == [
        ("photos/cut.png", "photos"),
        ("photos/empty.png", "photos"),
    ]
    assert "can't be decoded" in rejected(store)[0]["reason"]
    shutil.copy(photos / "01.png", photos / "cut.png")
    again = load(store, encoder, photos)
    assert (again.added, again.unchanged, again.rejected) == (1, 12, 1)
    assert [row["key"] for row in rejected(store)] == ["photos/empty.png"]


def test_images_that_went_bad_or_are_unreadable_stay(store: Store, encoder: Encoder, photos: Path) -> None:
    load(store, encoder, photos)
    (photos / "00.png").write_bytes(b"no longer an image")
    (photos / "01.png").unlink()
    (photos / "01.png").symlink_to(photos / "01.png")
    summary = load(store, encoder, photos)
    assert (summary.unchanged, summary.rejected) == (10, 2)
    assert stored(store).keys() == {f"photos/{i:02}.png" for i in range(12)}
    assert [row["key"] for row in rejected(store)] == ["photos/00.png", "photos/01.png"]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "I;16", "1", "F", "YCbCr"])
def test_all_kinds_of_pixels_load(store: Store, encoder: Encoder, tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "kinds"
    folder.mkdir()
    grey = Image.linear_gradient("L")
    picture = Image.fromarray(np.asarray(grey, np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    picture.save(
        folder / ("a.png" if mode in ("RGBA", "LA", "P", "I;16", "1") else "a.tiff" if mode == "F" else "a.jpg")
    )
    grey.save(folder / "b.png")
    assert load(store, encoder, folder).added == 2
    a, b = (stored(store)[key].code for key in sorted(stored(store)))
    assert float(np.linalg.norm(a - b)) < 0.35 * float(np.linalg.norm(b))


def test_a_folder_of_nothing_but_bad_files_makes_no_gallery(command: Command, store_url: str, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.text").write_text("text")
    done = command("ingest", "load", str(tmp_path / "texts"), "--store", store_url)
    assert done.returncode == 3
    assert "texts: expected images, got 1 other file" in done.stderr
    assert open_store(store_url).list() == []


@pytest.mark.parametrize(
    ("options", "code"),
    [((), 3), (("--max-rejected", "20%"), 0), (("--max-rejected", "20", "--strict"), 3)],
)
def test_the_exit_code_says_when_too_many_are_bad(
    command: Command, store_url: str, photos: Path, options: tuple[str, ...], code: int
) -> None:
    for name in ("a.png", "b.png"):
        (photos / name).write_bytes(b"bad")
    done = command("ingest", "load", str(photos), "--store", store_url, "--json", *options)
    assert done.returncode == code, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["added"], summary["rejected"], summary["count"]) == (12, 2, 12)
    assert "2 bad images left out, named in" in done.stderr
    assert "'photos/a.png': image: expected a whole image file" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--prune", "--limit", "3"), "expected one of --prune and --limit"),
        (("--label-from", "name"), "--label-from 'name': expected folder"),
        (("--label-from-folders", "--labels", "x.csv"), "expected one of --label-from-folders and --labels"),
        (("--dedupe", "--workers", "2"), "expected one of --dedupe and --workers"),
        (("--service", "127.0.0.1:1", "--rebuild"), "--service only adds"),
        (("--service", "nowhere"), "service 'nowhere': expected HOST:PORT"),
        (("--service", "127.0.0.1:99999"), "service '127.0.0.1:99999': expected HOST:PORT"),
    ],
)
def test_options_that_contradict_are_refused(
    command: Command, store_url: str, photos: Path, options: tuple[str, ...], says: str
) -> None:
    done = command("ingest", "load", str(photos), "--store", store_url, *options)
    assert done.returncode == 3
    assert says in done.stderr


def test_a_rebuild_of_bad_images_leaves_the_live_version(command: Command, store_url: str, photos: Path) -> None:
    command("ingest", "load", str(photos), "--store", store_url)
    for path in sorted(photos.iterdir())[:6]:
        path.write_bytes(b"bad")
    done = command("ingest", "load", str(photos), "--rebuild", "--store", store_url)
    assert done.returncode == 3
    assert "expected at most 10 % bad images, got 6 of 12: the live version stays as it is" in done.stderr
    (spec,) = open_store(store_url).list()
    assert (spec.version, spec.count) == (1, 12)
    assert (
        command("ingest", "load", str(photos), "--rebuild", "--max-rejected", "50", "--store", store_url).returncode
        == 0
    )
    assert [(spec.version, spec.count) for spec in open_store(store_url).list()] == [(2, 6)]


def test_a_rebuild_is_like_the_source_and_the_old_version_stays_until_clean(
    command: Command, store_url: str, photos: Path
) -> None:
    command("ingest", "load", str(photos), "--store", store_url)
    (photos / "00.png").unlink()
    command("ingest", "load", str(photos), "--rebuild", "--store", store_url)
    folder = Path(store_url.removeprefix("edge:")) / "photos"
    assert sorted(path.name for path in folder.glob("v*")) == ["v1", "v2"]
    assert [(spec.version, spec.count) for spec in open_store(store_url).list()] == [(2, 11)]
    cleaned = command("ingest", "clean", "--store", store_url)
    assert cleaned.stdout == "photos v2: removed v1\n"
    assert sorted(path.name for path in folder.glob("v*")) == ["v2"]


def test_a_rebuild_keeps_the_encoder_and_the_labels_unless_others_are_named(
    command: Command, store_url: str, photos: Path
) -> None:
    (photos / "dog").mkdir()
    shutil.move(photos / "00.png", photos / "dog" / "00.png")
    load = ("ingest", "load", str(photos), "--store", store_url)
    command(*load, "--encoder", "seed", "--label-from-folders")
    rebuilt = command(*load, "--rebuild")
    assert "encoder seed" in rebuilt.stdout
    assert "1 label kept from the previous version" in rebuilt.stdout
    assert "encoder mnist" in command(*load, "--encoder", "mnist", "--rebuild").stdout


def install(name: str, original: Path, models: Path) -> str:
    """Install a copy of an encoder as the user's encoder of this name, and return the copy's fingerprint."""
    shutil.rmtree(models / name, ignore_errors=True)
    folder = shutil.copytree(original, models / name)
    card = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps({**card, "name": name}))
    return str(card["fingerprint"])


def test_a_gallery_grows_with_the_encoder_of_its_fingerprint_and_a_rebuild_may_use_a_newer_one(
    command: Command, store_url: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encoder_service.encoder.user_models", lambda: tmp_path / "models")
    monkeypatch.setattr("encoder_service.encoder._EARLIER", tmp_path / "earlier")
    load = ("ingest", "load", str(photos), "--store", store_url)
    earlier = install("mine", MODELS / "seed", tmp_path / "models")
    assert command(*load, "--encoder", "mine").returncode == 0
    shutil.copytree(tmp_path / "models" / "mine", tmp_path / "of an earlier release")
    newer = install("mine", MODELS / "mnist", tmp_path / "models")
    shutil.move(photos / "00.png", photos / "new.png")
    assert (refused := command(*load)).returncode == 3
    assert "made by encoder" in refused.stderr
    shutil.copytree(tmp_path / "of an earlier release", tmp_path / "earlier" / earlier[:8])
    done = command(*load)
    assert done.returncode == 0, done.stderr
    assert "1 image added, 11 unchanged" in done.stdout
    kept = command(*load, "--rebuild", "--keep-added")
    assert (kept.returncode, "note" in kept.stderr) == (0, False), kept.stderr
    rebuilt = command(*load, "--rebuild")
    assert f"made by encoder mine ({earlier[:8]}…)" in rebuilt.stderr
    assert f"the encoder that has this name now ({newer[:8]}…)" in rebuilt.stderr
    assert open_store(store_url).spec("photos").fingerprint == newer


def test_labels_that_are_given_later_are_reported_as_such(command: Command, store_url: str, photos: Path) -> None:
    (photos / "dog").mkdir()
    for name in ("00.png", "01.png"):
        shutil.move(photos / name, photos / "dog" / name)
    load = ("ingest", "load", str(photos), "--store", store_url)
    command(*load)
    assert "photos v1: 0 images added, 10 unchanged, 2 relabelled\n" in command(*load, "--label-from-folders").stdout


def test_the_default_encoder_is_chosen_by_the_images(command: Command, store_url: str, photos: Path) -> None:
    load = ("ingest", "load", str(photos), "--store", store_url)
    small = command(*load)
    assert "12 in all, encoder mnist," in small.stdout
    assert "note: encoder mnist, because the images are small and grey" in small.stderr
    Image.new("RGB", (20, 20), "red").save(photos / "00.png")
    assert "note" not in command(*load).stderr  # the gallery has its encoder
    coloured = command(*load, "--gallery", "new")
    assert "12 in all, encoder photos," in coloured.stdout
    assert "note: encoder photos, because the images are large or in colour" in coloured.stderr
    assert f"`autoencoder train {photos} --name my-new` makes one that knows them better" in coloured.stderr
    assert "note" not in command(*load, "--gallery", "digits", "--encoder", "mnist").stderr


class WrongEncoder:
    """An encoder whose first batch has the codes in the wrong order, as broken memory might."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._calls = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._encoder, name)

    def encode(self, inputs: np.ndarray) -> np.ndarray:
        self._calls += 1
        codes = self._encoder.encode(inputs)
        return codes[::-1] if self._calls == 1 else codes


def test_a_version_with_wrong_codes_does_not_go_live(store: Store, encoder: Encoder, photos: Path) -> None:
    load(store, encoder, photos)
    with pytest.raises(StoreDamagedError, match=r"gallery 'g' does not go live: photos/00\.png: its code is"):
        load(store, WrongEncoder(encoder), photos, rebuild=True)  # type: ignore[arg-type]
    assert store.spec("g").version == 1
    with closing(store.open("g")) as gallery:
        assert (
            gallery.search(Query(encoder.encode_images([Image.open(photos / "03.png")])[0]))[0].key == "photos/03.png"
        )


def test_names_of_options_from_release_0_1_0_still_work(command: Command, store_url: str, photos: Path) -> None:
    (photos / "dog").mkdir()
    shutil.move(photos / "00.png", photos / "dog" / "00.png")
    labelled = ("--label-from", "folder", "--name", "old"), ("--label-from-folders", "--gallery", "new")
    for options in labelled:
        done = command("ingest", "load", str(photos), "--store", store_url, *options)
        assert done.returncode == 0, done.stderr
    for name in ("old", "new"):
        with closing(open_store(store_url).open(name)) as gallery:
            (entry,) = gallery.get(["photos/dog/00.png"])
        assert entry is not None
        assert entry.label == "dog"


@pytest.mark.parametrize("presses", [1, 2])
def test_the_same_command_resumes_a_load_that_ctrl_c_has_stopped(
    command: Command, store_url: str, presses: int
) -> None:
    arguments = ("load", "mnist", "--limit", "12000", "--encoder", "seed", "--store", store_url)
    process = subprocess.Popen([BIN / "ingest", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ledger = Path(store_url.removeprefix("edge:")) / "mnist" / "v1" / "ledger.sqlite-wal"
    deadline = time.monotonic() + 60
    while not (ledger.exists() and ledger.stat().st_size > 100_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert any("stopping after the images in flight" in line for line in lines)
    if presses == 2:
        process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 20  # a few batches, not the rest of the source
    assert process.returncode == 130
    assert "error: stopped " in err
    assert "the same command resumes" in err
    assert "Traceback" not in err
    again = json.loads(command("ingest", *arguments, "--json").stdout)
    assert 0 < again["unchanged"] < 12_000
    assert again["added"] + again["unchanged"] == again["count"] == 12_000


def test_check_finds_a_sound_gallery_sound(command: Command, store_url: str, photos: Path) -> None:
    command("ingest", "load", str(photos), "--store", store_url)
    done = command("ingest", "check", "photos", "--store", store_url)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "photos v1: sound: 12 images, files unchanged, 12 codes compared\n"
    shutil.rmtree(photos)
    done = command("ingest", "check", "photos", "--store", store_url)
    assert (done.returncode, " 0 codes compared" in done.stdout) == (0, True)
    assert "note: images of" in done.stderr


@pytest.mark.parametrize("harm", ["flip", "missing", "extra", "ledger", "manifest"])
def test_check_names_the_problem_and_the_remedy(command: Command, store_url: str, photos: Path, harm: str) -> None:
    command("ingest", "load", str(photos), "--store", store_url)
    version = Path(store_url.removeprefix("edge:")) / "photos" / "v1"
    vectors = next(version.rglob("*.dat"))
    match harm:
        case "flip":
            content = bytearray(vectors.read_bytes())
            content[len(content) // 2] ^= 1
            vectors.write_bytes(content)
        case "missing":
            vectors.unlink()
        case "extra":
            (version / "shard" / "stray.dat").touch()
        case "ledger":
            (version / "ledger.sqlite").write_bytes(b"not a ledger")
        case "manifest":
            (version / "manifest.json").unlink()
    done = command("ingest", "check", "photos", "--store", store_url)
    assert done.returncode == 3
    assert "photos: " in done.stdout
    assert "build it again with `ingest load … --gallery photos --rebuild`" in done.stderr


def test_a_version_that_was_altered_is_not_loaded_into_and_can_be_dropped(
    command: Command, store_url: str, photos: Path
) -> None:
    command("ingest", "load", str(photos), "--store", store_url)
    home = Path(store_url.removeprefix("edge:")) / "photos"
    vectors = next((home / "v1").rglob("*.dat"))
    vectors.write_bytes(bytes(vectors.stat().st_size))
    done = command("ingest", "load", str(photos), "--store", store_url)
    assert (done.returncode, "is not as it was built" in done.stderr) == (5, True)
    assert command("ingest", "check", "photos", "--store", store_url).returncode == 3  # still known to be altered
    (home / "v1" / "gallery.json").unlink()
    assert "gallery 'photos'" in command("ingest", "list", "--store", store_url).stderr
    assert command("ingest", "drop", "photos", "--yes", "--store", store_url).returncode == 0
    assert not home.exists()


def test_a_gallery_without_a_ledger_gets_one(store: Store, encoder: Encoder, photos: Path) -> None:
    load(store, encoder, photos)
    calibration = store.spec("g").calibration
    (store.local_folder("g") / "ledger.sqlite").unlink()
    again = load(store, encoder, photos)
    assert (again.added, again.unchanged) == (0, 12)
    assert store.spec("g").calibration == calibration is not None


def test_the_loader_leaves_no_threads_and_no_open_files(store: Store, encoder: Encoder, photos: Path) -> None:
    load(store, encoder, photos)
    before, threads = len(os.listdir("/proc/self/fd")), set(threading.enumerate())  # noqa: PTH208
    for _ in range(3):
        load(store, encoder, photos)
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208


def test_a_load_names_only_its_own_bad_images(command: Command, store_url: str, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for folder, names in ((photos, ("x.png", "y.png")), (other, ("z.png",))):
        shutil.copy(photos / "00.png", folder / "good.png")
        for name in names:
            (folder / name).write_text("no image")
    load = ("--gallery", "both", "--max-rejected", "100", "--store", store_url)
    assert "2 bad images left out" in command("ingest", "load", str(photos), *load).stderr
    second = command("ingest", "load", str(other), *load).stderr
    assert "1 bad image left out" in second
    assert "'other/z.png'" in second
    assert "x.png" not in second
