"""A single image file as a source."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ingest.sources.base import Notes, Options
from ingest.sources.files import File, FilesSource
from ingest.sources.names import text_of
from ingest.sources.streams import reading


class PictureSource(FilesSource):
    """A single image file. Its key is the one that it has when its folder is loaded: `photos/cat.jpg`."""

    file_errors = (OSError,)

    def __init__(self, path: Path, options: Options) -> None:
        """Make a source of the file.

        Args:
            path: The file.
            options: How to read the source.
        """
        super().__init__(path, text_of(path.resolve().parent.name), options)
        self._path = path
        self.count = 1

    def files(self, notes: Notes) -> Iterator[File]:
        """Yield the file."""
        with reading(self._path, "an image file"):
            size = self._path.stat().st_size
        yield File(text_of(self._path.name), size, lambda: self._path.open("rb"))


def is_picture(path: Path) -> bool:
    """Return whether a file has an ending of an image format."""
    return path.suffix.lower() in Image.registered_extensions()
