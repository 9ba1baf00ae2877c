"""Images as the rows of an array in a file, the common part of IDX and NPZ."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ingest.errors import SourceError
from ingest.sources.base import Item, limited_name


@dataclass(frozen=True, slots=True)
class Rows:
    """An array of images in a file, read row by row.

    Attributes:
        file: Path of the file.
        array: Name of the array in the file; "" if the file has one array.
        shape: (n, h, w) or (n, h, w, channels).
        open: Opens the file at the start of the first row. Picklable.
        labels: (n,) of any dtype; None if the file has no labels.
    """

    file: Path
    array: str
    shape: tuple[int, ...]
    open: Callable[[], IO[bytes]]
    labels: NDArray[np.generic] | None

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            SourceError: The array's shape is not that of images, or the labels are not one for each image.
        """
        name = f"{self.file.name} {self.array}".strip()
        if len(self.shape) not in (3, 4) or (len(self.shape) == 4 and self.shape[3] not in (1, 3, 4)):
            raise SourceError(f"{name}: expected images of shape (n, h, w) or (n, h, w, 1, 3 or 4), got {self.shape}")
        if self.labels is not None and self.labels.shape != self.shape[:1]:
            raise SourceError(f"{name}: expected {self.shape[0]:,} labels, got labels of shape {self.labels.shape}")

    def items(self) -> Iterator[Item]:
        """Read the images. A key is the file's name, the array's name and the row: `digits/x_train/7`."""
        prefix = "/".join(filter(None, (self.file.name.split(".")[0], self.array)))
        length = prod(self.shape[1:])
        with self.open() as file:
            for row in range(self.shape[0]):
                try:
                    content = file.read(length)
                except (OSError, EOFError) as error:
                    raise SourceError(f"{self.file}: can't be read after {row:,} images: {error}") from error
                if len(content) < length:
                    raise SourceError(f"{self.file}: expected {self.shape[0]:,} images, got {row:,}")
                pixels = np.frombuffer(content, np.uint8).reshape(self.shape[1:])
                yield Item(f"{prefix}/{row}", pixels, None if self.labels is None else str(self.labels[row]))


class ArraySource:
    """The images of all arrays in one file."""

    def __init__(self, path: Path, arrays: Sequence[Rows], limit: int | None = None) -> None:
        """Make a source of arrays.

        Args:
            path: The file.
            arrays: The arrays of images in the file.
            limit: Maximum number of images to read; None for all.
        """
        self.name = limited_name(path.name, limit)
        self.place = str(path.resolve())
        self._arrays = arrays
        self.count = sum(rows.shape[0] for rows in arrays) if limit is None else limit
        self._limit = limit

    def __iter__(self) -> Iterator[Item]:
        """Read the images, one array after the other."""
        return islice(chain.from_iterable(rows.items() for rows in self._arrays), self._limit)
