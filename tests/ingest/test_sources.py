"""Sources of images: datasets, and what all sources have in common."""

import gzip
import hashlib
import http.client
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gallery.errors import InvalidInputError
from ingest.errors import SourceError, SourceNotFoundError, SourceUnavailableError
from ingest.sources import Source, SourceName, dataset_image, open_source
from ingest.sources.datasets import DATASETS
from ingest.sources.fetch import Way, fetch, folder, mirror
from ingest.sources.package_proxies import npm_package
from tests import digits
from tests.ingest.test_archives import is_image, pack

CONTENT = b"the right content"
SUMS = {"file": hashlib.sha256(CONTENT).hexdigest()}


def test_mnist_has_its_keys_labels_and_pictures() -> None:
    items = list(open_source("mnist", "train", limit=400))
    images, labels = digits.read("train")
    assert [item.key for item in items] == [f"mnist/train/{i}" for i in range(400)]
    assert [item.label for item in items] == [str(label) for label in labels]
    np.testing.assert_array_equal(np.stack([np.asarray(item.image()) for item in items]), images)


@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000), ("all", 70_000)])
def test_the_splits_have_their_sizes(split: str, count: int) -> None:
    assert open_source("mnist", split).count == count


def test_all_is_train_and_then_test() -> None:
    keys = [item.key for item in open_source("mnist", "all")]
    assert (keys[0], keys[59_999], keys[60_000], keys[-1]) == (
        "mnist/train/0",
        "mnist/train/59999",
        "mnist/test/0",
        "mnist/test/9999",
    )


def test_a_dataset_key_names_its_image() -> None:
    image = dataset_image("mnist/test/7")
    assert image is not None
    np.testing.assert_array_equal(np.asarray(image), digits.read("t10k")[0][7])


@pytest.mark.parametrize("key", ["mnist/test/10000", "mnist/test/-1", "mnist/test", "mnist/all/1", "cat.png", ""])
def test_other_keys_name_no_dataset_image(key: str) -> None:
    assert dataset_image(key) is None


def test_an_unknown_source_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SourceNotFoundError, match="no source 'minst': expected one of mnist, fashion-mnist"):
        open_source("minst")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(SourceError, match="split 'half': expected one of train, test, all"):
        open_source("mnist", "half")


def test_the_cache_is_tried_first_and_keeps_what_was_fetched(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file.gz").write_bytes(gzip.compress(CONTENT))
    ways = [folder(tmp_path / "source")]
    assert fetch(tmp_path / "cache", SUMS, ways) == {"file": CONTENT}
    assert fetch(tmp_path / "cache", SUMS, []) == {"file": CONTENT}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["file"]


@pytest.mark.parametrize(
    "bad", [b"altered content", b"", b"\x1f\x8bcut off", gzip.compress(CONTENT, mtime=0)[:12] + b"~" * 20]
)
def test_content_with_another_checksum_is_ignored_and_replaced(tmp_path: Path, bad: bytes) -> None:
    for name, content in (("cache", bad), ("wrong", bad), ("right", CONTENT)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(content)
    ways = [folder(tmp_path / "wrong"), folder(tmp_path / "right")]
    assert fetch(tmp_path / "cache", SUMS, ways) == {"file": CONTENT}
    assert (tmp_path / "cache" / "file").read_bytes() == CONTENT


def test_the_error_names_each_way_and_why_it_failed(tmp_path: Path) -> None:
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "file").write_bytes(b"altered")
    ways = [
        mirror("https://127.0.0.1:1/data"),
        folder(tmp_path / "wrong"),
        npm_package("no-such-package@file:/nowhere", "data"),
        Way("a full disk", lambda scratch: (_ for _ in ()).throw(OSError("No space left"))),
    ]
    with pytest.raises(SourceUnavailableError) as raised:
        fetch(tmp_path / "cache", SUMS, ways)
    for part in (
        "file could not be fetched",
        "no file",
        "https://127.0.0.1:1/data: [Errno 111] Connection refused",
        "file has another SHA-256 than expected",
        "fallback npm pack no-such-package",
        "a full disk: No space left",
        f"Put the files into {tmp_path / 'cache'} by hand",
    ):
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_has_every_file_except_hidden_ones_ordered_by_path(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "deep" / "er").mkdir(parents=True)
    for path in ("b.png", "deep/er/a.jpg", "deep/c.TIFF", "line\nbreak's.png"):
        Image.new("RGB", (40, 30), "red").save(photos / path)
    Image.new("RGB", (40, 30), "red").save(photos / ".hidden.png")
    (photos / "empty.gif").touch()
    (photos / "Thumbs.db").write_bytes(b"clutter")
    (photos / "notes").write_text("no image")
    (photos / "deep" / "round").symlink_to(photos)
    (photos / "nowhere.png").symlink_to(photos / "nowhere.png")
    os.mkfifo(photos / "pipe.png")
    Path(os.fsdecode(os.fsencode(photos) + b"/not-utf8-\xff.png")).write_bytes((photos / "b.png").read_bytes())
    items = {item.key: item for item in open_source(str(photos))}
    good = ["photos/b.png", "photos/line\nbreak's.png", "photos/not-utf8-\\xff.png", "photos/deep/c.TIFF"]
    assert [key for key in items if is_image(items[key])] == [*good, "photos/deep/er/a.jpg"]
    assert {key: items[key].problem for key in items if items[key].problem} == {
        "photos/nowhere.png": "can't be read: Too many levels of symbolic links",
        "photos/pipe.png": "expected a regular file, got a pipe, a socket or a device",
    }
    assert {"photos/empty.gif", "photos/notes"} <= set(items)
    assert len(items) == 9
    assert [item.key for item in open_source(str(photos), limit=1)] == good[:1]


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected image files, such as \.png or \.jpg, got none"):
        open_source(str(tmp_path))


def test_a_folder_that_disappears_is_an_error(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 5)
    items = iter(open_source(str(photos)))
    next(items)
    shutil.rmtree(photos)
    with pytest.raises(SourceError, match="it disappeared while it was read"):
        list(items)


def picture_folder(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for index, pixels in enumerate(digits.read("train")[0][:count]):
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
    return folder


def all_sources(folder: Path) -> list[Source]:
    """Return one source of each kind, with ten images at most."""
    images, labels = digits.read("train")
    photos = picture_folder(folder / "photos", 3)
    pack(folder / "photos.zip", {path.name: path.read_bytes() for path in photos.iterdir()})
    pack(folder / "photos.tar", {path.name: path.read_bytes() for path in photos.iterdir()})
    np.savez(folder / "arrays.npz", x=images[:3], y=labels[:3])
    (folder / "labels.csv").write_text("000.png,zero\n")
    return [
        open_source("mnist", "test", limit=10),
        open_source(str(photos)),
        open_source(str(photos), label_from_folders=True),
        open_source(str(photos), labels=folder / "labels.csv"),
        open_source(str(photos / "000.png")),
        open_source(str(folder / "photos.zip"), limit=2),
        open_source(str(folder / "photos.tar")),
        open_source(str(folder / "arrays.npz")),
        open_source(str(digits.FOLDER / "t10k-images-idx3-ubyte.gz"), limit=10),
    ]


def test_every_source_can_be_pickled_for_another_process(tmp_path: Path) -> None:
    for source in all_sources(tmp_path):
        other = pickle.loads(pickle.dumps(source))
        assert (other.name, other.place, other.count) == (source.name, source.place, source.count)
        read, read_again = ([(item.key, item.sha256, item.label) for item in each] for each in (source, other))
        assert read == read_again != []


def test_every_source_is_found_by_its_place_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture_folder(tmp_path / "photos", 3)
    monkeypatch.chdir(tmp_path)
    places = [open_source("photos").place, *(source.place for source in all_sources(tmp_path / "all"))]
    monkeypatch.chdir("/")
    for place in places:
        assert open_source(place).place == place
    assert open_source("mnist").place == "mnist/train"


def test_a_dataset_has_labels_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="mnist/test has labels of its own"):
        open_source("mnist/test", label_from_folders=True)
    with pytest.raises(InvalidInputError, match="expected one of --label-from-folders and --labels"):
        open_source(str(tmp_path), label_from_folders=True, labels=tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("text", "origin"),
    [("mnist", "mnist/train"), ("fashion-mnist/test", "fashion-mnist/test"), ("some/photos.tar", "photos.tar")],
)
def test_a_source_name_has_an_origin(text: str, origin: str) -> None:
    assert SourceName.parse(text).origin == origin


@pytest.mark.parametrize(("path", "name"), [("My Photos!", "my-photos"), ("mnist/test", "mnist"), ("x", "x")])
def test_a_gallery_is_named_after_its_source(path: str, name: str) -> None:
    assert SourceName.parse(path).default_gallery == name


def test_a_path_without_letters_gives_no_gallery_name() -> None:
    with pytest.raises(InvalidInputError, match=r"source 照片: expected a name with letters or digits: .* --gallery"):
        SourceName.parse("照片").default_gallery  # noqa: B018


@pytest.mark.slow
def test_fashion_mnist_can_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    images, labels = DATASETS["fashion-mnist"].read("test")
    assert images.shape == (10_000, 28, 28)
    assert DATASETS["fashion-mnist"].labels[labels[0]] == "Ankle boot"


def test_a_download_that_breaks_off_leads_to_the_next_way(tmp_path: Path) -> None:
    def broken(name: str) -> bytes:
        raise http.client.IncompleteRead(b"half", 4)

    (tmp_path / "file").write_bytes(CONTENT)
    ways = [Way("broken", lambda scratch: broken), folder(tmp_path)]
    assert fetch(tmp_path / "cache", SUMS, ways) == {"file": CONTENT}
