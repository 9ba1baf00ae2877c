"""CIFAR-10 and CIFAR-100 in their binary version, a tar of records; see https://www.cs.toronto.edu/~kriz/cifar.html."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from ingest.errors import SourceError
from ingest.sources.base import Item, Options, limited_name
from ingest.sources.layout import Layout
from ingest.sources.names import is_archive, stem_of, text_of
from ingest.sources.streams import reading
from ingest.sources.tar_stream import TarStream

_LAYOUT = Layout(1, (3, 32, 32), (1, 2, 0))
_EXPECTED = "CIFAR's binary version as a .tar.gz"
# Files with the names of the classes, each with the number of bytes before the pixels of a record. The last of these
# bytes is the number of the record's class.
_CLASSES = {"batches.meta.txt": 1, "fine_label_names.txt": 2}


class CifarSource:
    """The images of CIFAR. A key is made of tar, file and row: `cifar-10-binary/data_batch_1/7`."""

    def __init__(self, path: Path, options: Options) -> None:
        """Count the images and read the names of the classes.

        Args:
            path: The tar.
            options: How to read the source.

        Raises:
            SourceError: The file is damaged, or has no records of CIFAR's binary version.
        """
        self.name = limited_name(text_of(path.name), options.limit)
        self.place = text_of(path.resolve())
        self.notes: list[str] = []
        self._path = path
        self._classes: list[str] = []
        self._label_bytes = total = 0
        for name, size, file in self._files():
            if name in _CLASSES:
                self._label_bytes = _CLASSES[name]
                self._classes = file.read().decode("ascii", "replace").split()
            elif name.endswith(".bin"):
                total += size
        if not total or not self._classes:
            raise SourceError(
                f"{text_of(path)}: expected {_EXPECTED}, got another tar: the Python and Matlab versions can't be read"
            )
        total //= self._label_bytes + _LAYOUT.length
        self.count = total if options.limit is None else min(options.limit, total)

    def __iter__(self) -> Iterator[Item]:
        """Read the images in the order of the tar."""
        return islice(self._items(), self.count)

    def _items(self) -> Iterator[Item]:
        length = self._label_bytes + _LAYOUT.length
        for name, size, file in self._files():
            for row in range(size // length if name.endswith(".bin") else 0):
                with reading(self._path, _EXPECTED):
                    record = np.frombuffer(file.read(length), np.uint8)
                label = self._classes[record[self._label_bytes - 1]]
                pixels = np.ascontiguousarray(_LAYOUT.arrange(record[self._label_bytes :]))
                yield Item(f"{stem_of(self._path)}/{name.removesuffix('.bin')}/{row}", pixels.astype(np.uint8), label)

    def _files(self) -> Iterator[tuple[str, int, IO[bytes]]]:
        with reading(self._path, _EXPECTED), TarStream(self._path) as stream:
            for archive, member in stream.members():
                if member.isreg() and (file := archive.extractfile(member)):
                    yield member.name.rpartition("/")[2], member.size, file


def is_cifar(path: Path) -> bool:
    """Return whether a file is CIFAR's tar, by its name."""
    return path.name.lower().startswith("cifar-10") and is_archive(path)
