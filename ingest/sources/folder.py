"""A folder of images, with its subfolders."""

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ingest.errors import SourceError
from ingest.sources.base import Item, limited_name

# Files that desktops create in folders of images.
_CLUTTER = frozenset({"Thumbs.db", "desktop.ini"})


class FolderSource:
    """The images below a folder. A key is the folder's name and the path inside: `photos/cat.jpg`.

    Every file except hidden ones counts as an image, whatever its extension.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        """Count the files, without reading them.

        Args:
            folder: The folder. Links to other folders are not followed.
            limit: Maximum number of files to read; None for all.

        Raises:
            SourceError: The folder has no file, or can't be listed.
        """
        self._folder = folder.resolve()
        self._limit = limit
        self.name = limited_name(self._folder.name, limit)
        self.place = str(self._folder)
        self.count = sum(1 for _ in islice(self._paths(), limit))
        if not self.count:
            raise SourceError(f"folder {folder}: expected image files, such as .png or .jpg, got none")

    def __iter__(self) -> Iterator[Item]:
        """Read the images in the order of their paths."""
        for path in islice(self._paths(), self._limit):
            key = f"{self._folder.name}/{path.relative_to(self._folder).as_posix()}"
            key = os.fsencode(key).decode("utf-8", "backslashreplace")
            try:
                # reading a pipe would block forever
                if not stat.S_ISREG(path.stat().st_mode):
                    yield Item(key, b"", problem="expected a regular file, got a pipe, a socket or a device")
                    continue
                yield Item(key, path.read_bytes())
            except OSError as error:
                if not self._folder.is_dir():
                    raise SourceError(f"folder {self._folder}: it disappeared while it was read") from error
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
