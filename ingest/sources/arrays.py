"""The base of sources whose images are the rows of an array in a file: IDX, NPY and NPZ."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ingest.errors import SourceError
from ingest.sources.base import Item, limited_name
from ingest.sources.layout import Layout, full_scale, to_uint8
from ingest.sources.names import text_of
from ingest.sources.streams import reading


@dataclass(frozen=True, slots=True)
class Rows:
    """An array of images in a file, read row by row.

    Attributes:
        file: Path of the file.
        array: Name of the array in the file; "" if the file has one array.
        layout: Number of images and their axes.
        open: Opens the file at the start of the first row. Picklable.
        labels: The n labels; None if the file has no labels.
        dtype: Type of the values.
        scale: The value that is white.
    """

    file: Path
    array: str
    layout: Layout
    open: Callable[[], IO[bytes]]
    labels: Sequence[str] | None = None
    dtype: np.dtype[np.generic] = field(default_factory=lambda: np.dtype(np.uint8))
    scale: float = 255.0

    def __post_init__(self) -> None:
        """Check the labels.

        Raises:
            SourceError: The number of labels differs from the number of images.
        """
        if self.labels is not None and len(self.labels) != self.layout.count:
            name = f"{text_of(self.file.name)} {self.array}".strip()
            raise SourceError(f"{name}: expected {self.layout.count:,} labels, got {len(self.labels):,}")

    def scaled(self) -> "Rows":
        """Return a copy whose `scale` fits the values. To find the scale, read all values, unless they are bytes.

        Raises:
            ValueError: The values can't be pixels.
            SourceError: The file is truncated or damaged.
        """
        return replace(self, scale=full_scale(self._values(), self.dtype))

    def items(self) -> Iterator[Item]:
        """Read the images. A key is the file's name, the array's name and the row: `digits/x_train/7`."""
        prefix = "/".join(filter(None, (text_of(self.file.name).split(".")[0], self.array)))
        for row, values in enumerate(self._values()):
            pixels = to_uint8(self.layout.arrange(values), self.scale)
            yield Item(f"{prefix}/{row}", pixels, None if self.labels is None else self.labels[row])

    def _values(self) -> Iterator[NDArray[np.generic]]:
        length = self.layout.length * self.dtype.itemsize
        with reading(self.file, "a complete file of images"), self.open() as file:
            for row in range(self.layout.count):
                content = file.read(length)
                if len(content) < length:
                    raise SourceError(f"{text_of(self.file)}: expected {self.layout.count:,} images, got {row:,}")
                yield np.frombuffer(content, self.dtype)
            file.read(1)  # a compressed file has its checksum after the last row


class ArraySource:
    """The images of all arrays in one file."""

    def __init__(self, path: Path, arrays: Sequence[Rows], limit: int | None = None, notes: Sequence[str] = ()) -> None:
        """Make a source of arrays.

        Args:
            path: The file.
            arrays: The arrays of images in the file.
            limit: Maximum number of images to read; None for all.
            notes: Lines about arrays in the file that are not read.
        """
        self.name = limited_name(text_of(path.name), limit)
        self.place = text_of(path.resolve())
        self.notes = notes
        self._arrays = arrays
        total = sum(rows.layout.count for rows in arrays)
        self.count = total if limit is None else min(limit, total)
        self._limit = limit

    def __iter__(self) -> Iterator[Item]:
        """Read the images, one array after the other."""
        return islice(chain.from_iterable(rows.items() for rows in self._arrays), self._limit)
