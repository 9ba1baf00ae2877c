"""A folder of images, with the folders below it."""

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ingest.errors import SourceError
from ingest.sources.base import Item

# What desktops leave in folders by themselves.
_CLUTTER = frozenset({"Thumbs.db", "desktop.ini"})


class FolderSource:
    """The images below a folder, by their paths. A key is the folder's name and the path in it: `photos/cat.jpg`.

    Every file is taken for an image, whatever its name ends in, except hidden ones.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        """Count the files; none is read yet.

        Args:
            folder: Where to look. Links to other folders are not followed.
            limit: Read at most so many files; None for all.

        Raises:
            SourceError: There is no file.
        """
        self._folder = folder.resolve()
        self._limit = limit
        self.name = self._folder.name + (f"[:{limit}]" if limit else "")
        self.count = sum(1 for _ in islice(self._paths(), limit))
        if not self.count:
            raise SourceError(f"folder {folder}: expected image files, such as .png or .jpg, and found none")

    def __iter__(self) -> Iterator[Item]:
        """Read the images, ordered by path."""
        for path in islice(self._paths(), self._limit):
            key = f"{self._folder.name}/{path.relative_to(self._folder).as_posix()}"
            key = os.fsencode(key).decode("utf-8", "backslashreplace")
            try:
                # a pipe would keep us waiting for ever
                if not stat.S_ISREG(path.stat().st_mode):
                    yield Item(key, b"", problem="expected a file of bytes, got a pipe, a socket or a device")
                    continue
                yield Item(key, path.read_bytes())
            except OSError as error:
                if not self._folder.is_dir():
                    raise SourceError(
                        f"folder {self._folder}: it went away while it was read: load it again"
                    ) from error
                yield Item(key, b"", problem=f"can't be read: {error.strerror}")

    def _paths(self) -> Iterator[Path]:
        def refuse(error: OSError) -> None:
            raise SourceError(f"folder {error.filename}: can't be listed: {error.strerror}") from error

        for parent, folders, files in os.walk(self._folder, onerror=refuse):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(parent, name)
                if not name.startswith(".") and name not in _CLUTTER:
                    yield path
