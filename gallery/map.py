"""The map of a gallery: a place in the plane for each image, so that similar images are close together.

`ingest map` makes it, and the search page draws it. It is one file in the folder of a version's local files, a JSON
object that is compressed with gzip:

    {"format": 1, "labels": ["", "7"], "keys": ["a.png"], "label_indexes": [1], "x": [0], "y": [65535]}

The file is not part of a version's manifest, so that a map can be made while a service has the version open.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gallery.errors import MapNotFoundError, StoreDamagedError
from gallery.files import file_errors, replace_file
from gallery.formats import FORMAT_KEY, check_format, parse_object

MAP = "map.json.gz"
"""Name of the file."""
MAX_PLACE = 65535
"""Largest coordinate."""
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class GalleryMap:
    """The places of a gallery's images.

    Attributes:
        keys: The images' keys, sorted.
        labels: The label of each image; empty if unlabelled.
        places: (n, 2) uint16, x from the left and y from the top of each image.
    """

    keys: Sequence[str]
    labels: Sequence[str]
    places: NDArray[np.uint16]

    @classmethod
    def from_bytes(cls, content: bytes, place: str) -> "GalleryMap":
        """Parse the content of the file.

        Args:
            content: The content.
            place: The file or service that it comes from, for errors.

        Raises:
            StoreDamagedError: The content is not a map.
            NewerFormatError: A newer release wrote the map, in a format that this one can't read.
        """
        try:
            parsed = parse_object(gzip.decompress(content))
            check_format(parsed, _FORMAT, place)
            names = parsed["labels"]
            labels = [names[index] for index in parsed["label_indexes"]]
            places = np.array([parsed["x"], parsed["y"]], np.uint16).T
            if not len(parsed["keys"]) == len(labels) == len(places):
                raise ValueError("its lists have different lengths")
            return cls(parsed["keys"], labels, places)
        except (EOFError, IndexError, KeyError, OSError, OverflowError, TypeError, ValueError) as error:
            raise StoreDamagedError(f"can't be read as a map: {error}: run `ingest map` again", place=place) from error

    def to_bytes(self) -> bytes:
        """Return the content of the file. The same map always has the same content."""
        labels = sorted(set(self.labels))
        indexes = {label: index for index, label in enumerate(labels)}
        content = {
            FORMAT_KEY: _FORMAT,
            "labels": labels,
            "keys": list(self.keys),
            "label_indexes": [indexes[label] for label in self.labels],
            "x": self.places[:, 0].tolist(),
            "y": self.places[:, 1].tolist(),
        }
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return gzip.compress(text.encode("utf-8", "surrogatepass"), mtime=0)


def write_map(folder: Path, content: bytes) -> None:
    """Write the content of a map's file into the folder of a version's local files."""
    with file_errors(str(folder)):
        replace_file(folder / MAP, content)


def read_map(folder: Path, name: str) -> bytes:
    """Return the content of the map's file of the named gallery.

    Raises:
        MapNotFoundError: There is no map.
        StoreUnusableError: The file can't be read.
    """
    with file_errors(str(folder)):
        try:
            return (folder / MAP).read_bytes()
        except FileNotFoundError:
            raise MapNotFoundError(f"no map of gallery '{name}': make one with `ingest map {name}`") from None
