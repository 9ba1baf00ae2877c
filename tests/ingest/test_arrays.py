"""IDX, NPZ, NPY and CIFAR as sources: shapes, types, labels and damage."""

import gzip
import io
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.errors import SourceError
from ingest.sources import SourceName, open_source
from ingest.sources.idx import parse_idx
from tests import digits

X, Y = (part[:40] for part in digits.read("train"))
COLOUR = np.random.default_rng(1).integers(0, 256, (40, 12, 16, 3), np.uint8)


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.stack([np.asarray(item.image()) for item in open_source(str(path))])


def labels(path: Path) -> list[str | None]:
    return [item.label for item in open_source(str(path))]


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


def test_an_idx_pair_is_read_row_by_row(tmp_path: Path) -> None:
    for kind in ("images-idx3", "labels-idx1"):
        name = f"t10k-{kind}-ubyte.gz"
        shutil.copy(digits.FOLDER / name, tmp_path / name)
    items = list(open_source(str(tmp_path / "t10k-images-idx3-ubyte.gz")))
    images, numbers = digits.read("t10k")
    assert [item.label for item in items] == [str(label) for label in numbers]
    np.testing.assert_array_equal(np.stack([np.asarray(item.image()) for item in items]), images)
    assert items[7].key == "t10k-images-idx3-ubyte/7"
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    assert {item.label for item in open_source(str(tmp_path / "t10k-images-idx3-ubyte.gz"))} == {None}


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_emnist_is_turned_upright(tmp_path: Path) -> None:
    images = tmp_path / "emnist-letters-train-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(idx(np.ascontiguousarray(X.transpose(0, 2, 1)))))
    np.testing.assert_array_equal(pixels(images), X)
    assert "EMNIST" in open_source(str(images)).notes[0]


def test_a_gz_that_is_not_compressed_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "p-images-idx3-ubyte.gz").write_bytes(idx(X))
    np.testing.assert_array_equal(pixels(tmp_path / "p-images-idx3-ubyte.gz"), X)


@pytest.mark.parametrize("harmed", ["images", "labels"])
@pytest.mark.parametrize("harm", ["html", "cut", "checksum", "body", "folder"])
def test_a_damaged_idx_file_is_named(tmp_path: Path, harmed: str, harm: str) -> None:
    for kind, array in (("images-idx3", X), ("labels-idx1", Y)):
        (tmp_path / f"p-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    path = next(tmp_path.glob(f"p-{harmed}*"))
    content = bytearray(path.read_bytes())
    if harm == "html":
        content = bytearray(b"<html>gone</html>")
    elif harm == "cut":
        content = content[:-4]
    elif harm == "checksum":
        content[-8] ^= 255
    elif harm == "body":
        content[len(content) // 2] ^= 255
    path.unlink()
    path.mkdir() if harm == "folder" else path.write_bytes(content)
    if harm == "folder" and harmed == "images":
        (path / "a.txt").touch()
    with pytest.raises(SourceError, match=harmed if harm == "html" else path.name):
        list(open_source(str(tmp_path / "p-images-idx3-ubyte.gz")))


def test_an_npz_has_each_array_of_images_with_its_labels(tmp_path: Path) -> None:
    (x, y), (q, z) = digits.read("train"), digits.read("t10k")
    np.savez_compressed(tmp_path / "digits.npz", x_train=x, y_train=y, x_test=q, y_test=z, note=np.array("text"))
    source = open_source(str(tmp_path / "digits.npz"))
    items = list(source)
    assert source.count == len(items) == 500
    assert (items[0].key, items[-1].key) == ("digits/x_train/0", "digits/x_test/99")
    assert [item.label for item in items] == [str(label) for label in (*y, *z)]
    np.testing.assert_array_equal(np.asarray(items[-1].image()), q[-1])
    assert source.notes == ["left out note <U4 ()"]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (X, X),
        (np.asfortranarray(X), X),
        (COLOUR, COLOUR),
        (np.asfortranarray(COLOUR), COLOUR),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR),
        (X[:, None], X),
        (X[..., None], X),
        (X.reshape(40, 784), X),
        (COLOUR[:, :12, :12].transpose(0, 3, 1, 2).reshape(40, -1), COLOUR[:, :12, :12]),
        (COLOUR[0], COLOUR[:1]),
        (X.astype(np.float32) / 255, X),
        (X.astype(np.float64), X),
        (X.astype(np.float16), X),
        (np.asfortranarray(X / 255), X),
        (X.astype(np.int64), X),
        (X.astype(">u2") * 257, X),
        (X > 99, np.uint8(255) * (X > 99)),
        ((X > 99).astype(np.int32), np.uint8(255) * (X > 99)),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}" if isinstance(array, np.ndarray) else "",
)
@pytest.mark.parametrize("ending", [".npz", ".NPY"])
def test_arrays_of_all_shapes_and_types_are_images(
    tmp_path: Path, array: NDArray[np.generic], expected: NDArray[np.uint8], ending: str
) -> None:
    path = tmp_path / f"a.v1{ending}"
    with path.open("wb") as file:
        np.savez(file, images=array) if ending == ".npz" else np.save(file, array)
    np.testing.assert_array_equal(pixels(path), expected)
    assert open_source(str(path)).count == len(expected)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.linspace(-1, 1, 160).reshape(10, 4, 4), "float64 .*, floats from -1 to 1: expected 0 to 1 or 0 to 255"),
        (np.linspace(0, 1.2, 160).reshape(10, 4, 4), "floats from 0 to 1.2"),
        (np.full((10, 4, 4), np.nan), "floats that are not finite"),
        (np.full((10, 4, 4), -3), "integers from -3"),
        (np.zeros((3, 5, 4, 7), np.uint8), r"x uint8 \(3, 5, 4, 7\)"),
        (np.zeros((5, 10)), r"x float64 \(5, 10\)"),
        (np.array([object()] * 3), r"x Python objects \(3,\)"),
        (np.zeros((0, 28, 28), np.uint8), r"x uint8 \(0, 28, 28\)"),
    ],
)
def test_an_npz_without_images_is_refused(tmp_path: Path, array: NDArray[np.generic], says: str) -> None:
    np.savez(tmp_path / "a.npz", x=array)
    with pytest.raises(SourceError, match=rf"a\.npz: expected numbers of shape \(n, h, w\), .* got .*{says}"):
        open_source(str(tmp_path / "a.npz"))


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (Y[:, None], [str(label) for label in Y]),
        (np.array([b"caf\xc3\xa9", b"cat"] * 20), ["café", "cat"] * 20),
        (np.array(["dog", "cat"] * 20), ["dog", "cat"] * 20),
    ],
)
def test_labels_of_an_npz_may_be_a_column_or_bytes(tmp_path: Path, y: NDArray[np.generic], expected: list[str]) -> None:
    np.savez(tmp_path / "a.npz", x_train=X, y_train=y)
    assert labels(tmp_path / "a.npz") == expected


def test_what_an_npz_has_besides_is_said(tmp_path: Path) -> None:
    objects = np.array(["cat", 3] * 20, object)
    np.savez(tmp_path / "a.npz", x_train=X, y_train=objects, y_test=np.eye(10), x_val=np.full((2, 4, 4), 9.5))
    source = open_source(str(tmp_path / "a.npz"))
    assert [item.label for item in source] == [None] * 40
    assert sorted(source.notes) == [
        "left out x_val float64 (2, 4, 4), floats from 9.5 to 9.5: expected 0 to 1 or 0 to 255",
        "left out y_test float64 (10, 10)",
        "left out y_train: labels as Python objects, which are not safe to read; save y.astype(str) instead",
    ]


def test_labels_must_be_as_many_as_the_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y[:2])
    with pytest.raises(SourceError, match=r"a\.npz x: expected 40 labels, got 2"):
        open_source(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("harm", ["cut", "altered", "text"])
def test_a_damaged_npz_is_refused(tmp_path: Path, save: object, harm: str) -> None:
    path = tmp_path / "a.npz"
    save(path, x=X, y=Y)  # type: ignore[operator]
    content = bytearray(path.read_bytes())
    if harm == "cut":
        del content[1000:]
    elif harm == "altered":
        content[len(content) // 3] ^= 255
    path.write_bytes(b"text" * 99 if harm == "text" else content)
    with pytest.raises(SourceError, match=r"a\.npz: expected (an NPZ or NPY file|a complete file of images), got"):
        list(open_source(str(path)))


def test_a_gallery_is_named_after_its_array() -> None:
    assert SourceName.parse("D.NPZ").default_gallery == "d"


def test_cifars_binary_tar_is_read_with_its_labels(tmp_path: Path) -> None:
    images = np.random.default_rng(2).integers(0, 256, (6, 32, 32, 3), np.uint8)
    records = [bytes([i % 2]) + image.transpose(2, 0, 1).tobytes() for i, image in enumerate(images)]
    files = {
        "cifar-10-batches-bin/data_batch_1.bin": b"".join(records[:4]),
        "cifar-10-batches-bin/batches.meta.txt": b"airplane\nautomobile\n\n",
        "cifar-10-batches-bin/test_batch.bin": b"".join(records[4:]),
        "cifar-10-batches-bin/readme.html": b"<html>",
    }
    path = tmp_path / "cifar-10-binary.tar.gz"
    for content in (files, {"cifar-10-batches-py/data_batch_1": b"pickle"}):
        with tarfile.open(path, "w:gz") as packed:
            for name, data in content.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                packed.addfile(member, io.BytesIO(data))
        if content is files:
            np.testing.assert_array_equal(pixels(path), images)
            assert labels(path) == ["airplane", "automobile"] * 3
            keys = [item.key for item in open_source(str(path), limit=5)]
            assert keys[3:] == ["cifar-10-binary/data_batch_1/3", "cifar-10-binary/test_batch/0"]
    with pytest.raises(SourceError, match=r"expected CIFAR's binary version as a \.tar\.gz, got another tar"):
        open_source(str(path))
