"""IDX, the file format of MNIST: a magic number, big-endian sizes, bytes.

The format is described at the end of http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import io
import struct
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from ingest.errors import SourceError
from ingest.sources.arrays import Rows

_UNSIGNED_BYTES = 0x08


def parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes.

    Args:
        content: The file, not compressed.
        name: What to call it in an error.

    Returns:
        An array of the shape that the file tells, such as (60000, 28, 28).

    Raises:
        SourceError: It is no such file, or cut off.
    """
    file = io.BytesIO(content)
    shape = _read_shape(file, name)
    expected = int(np.prod(shape, dtype=np.int64))
    rest = len(content) - file.tell()
    if rest != expected:
        raise SourceError(f"{name}: expected {expected:,} bytes of {shape}, got {rest:,}")
    return np.frombuffer(content, np.uint8, offset=file.tell()).reshape(shape)


def is_idx(path: Path) -> bool:
    """Tell by its name whether a file holds images as IDX."""
    return "images" in path.name and "idx" in path.name


def open_idx(path: Path) -> Rows:
    """Open the images of an IDX file, plain or as .gz, with the labels from the file of the pair beside it.

    The labels' file is called as the images', with "labels" for "images" and "idx1" for "idx3".

    Raises:
        SourceError: It is no such file, or holds no images.
    """
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    labels = None
    if beside != path and beside.exists():
        with _open(beside) as file:
            labels = parse_idx(file.read(), beside.name)
    with _open(path) as file:
        shape = _read_shape(file, path.name)

    def open_rows() -> IO[bytes]:
        rows = _open(path)
        _read_shape(rows, path.name)
        return rows

    return Rows(path, "", shape, open_rows, labels)


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def _read_shape(file: IO[bytes], name: str) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _UNSIGNED_BYTES:
        raise SourceError(f"{name}: expected an IDX file of unsigned bytes, got one that begins {magic.hex()}")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise SourceError(f"{name}: expected {magic[3]} sizes, and the file ends before")
    return struct.unpack(f">{magic[3]}I", sizes)
