"""IDX, the file format of MNIST: a magic number, the size of each axis in big-endian order, then the values.

The format is described at the end of http://yann.lecun.com/exdb/mnist/.
"""

import io
import struct
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ingest.errors import SourceError
from ingest.sources.arrays import ArraySource, Rows
from ingest.sources.base import Options
from ingest.sources.layout import Layout, layout_of
from ingest.sources.names import text_of
from ingest.sources.streams import open_stream, reading

_UNSIGNED_BYTES = 0x08


def parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes.

    Args:
        content: The uncompressed file.
        name: Name of the file, for error messages.

    Returns:
        An array of the shape in the file's header, such as (60000, 28, 28).

    Raises:
        SourceError: The content is not an IDX file of unsigned bytes, or is truncated.
    """
    file = io.BytesIO(content)
    shape = _read_shape(file, name)
    expected = int(np.prod(shape, dtype=np.int64))
    rest = len(content) - file.tell()
    if rest != expected:
        raise SourceError(f"{name}: expected {expected:,} bytes of {shape}, got {rest:,}")
    return np.frombuffer(content, np.uint8, offset=file.tell()).reshape(shape)


def is_idx(path: Path) -> bool:
    """Return whether a file is an IDX file of images, by its name."""
    return "images" in path.name.lower() and "idx" in path.name.lower()


def open_idx(path: Path, options: Options) -> ArraySource:
    """Open an IDX file of images, plain or compressed, and the IDX file of their labels if it exists.

    The file of labels is in the same folder. Its name is that of the images with "labels" instead of "images" and
    "idx1" instead of "idx3". Files of EMNIST, whose names begin with "emnist", have the rows and columns of each image
    swapped. They are swapped back.

    Raises:
        SourceError: The file is not an IDX file of unsigned bytes, has no images, or does not have one label per image.
    """
    labels_path = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    labels = None
    if labels_path != path and labels_path.exists():
        with reading(labels_path, "an IDX file"), open_stream(labels_path) as file:
            labels = [str(label) for label in parse_idx(file.read(), text_of(labels_path.name)).reshape(-1)]
    with reading(path, "an IDX file"), open_stream(path) as file:
        shape = _read_shape(file, text_of(path.name))
    is_swapped = path.name.lower().startswith("emnist")
    layout = Layout(shape[0], shape[1:], (1, 0) if is_swapped else (0, 1)) if len(shape) == 3 else layout_of(shape)
    if layout is None:
        raise SourceError(
            f"{text_of(path.name)}: expected images of shape (n, h, w) or (n, h, w, channels), got {shape}"
        )
    notes = ["swapped the rows and columns of each image back, as this is a file of EMNIST"] if is_swapped else []
    return ArraySource(path, [Rows(path, "", layout, partial(_open_rows, path), labels)], options.limit, notes)


def _open_rows(path: Path) -> IO[bytes]:
    rows = open_stream(path)
    _read_shape(rows, text_of(path.name))
    return rows


def _read_shape(file: IO[bytes], name: str) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _UNSIGNED_BYTES:
        raise SourceError(f"{name}: expected an IDX file of unsigned bytes, got a file that begins {magic.hex()}")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise SourceError(f"{name}: expected {magic[3]} sizes, got the end of the file")
    return struct.unpack(f">{magic[3]}I", sizes)
