"""A folder of images, with the folders below it."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from encoder_service import images
from encoder_service.errors import ImageError
from ingest.errors import SourceError
from ingest.sources.base import Item

# Only these are tried, so that a folder's other files are not each reported as bad images.
_ENDINGS = frozenset(Image.registered_extensions())


class FolderSource:
    """The images below a folder, by their paths. A key is the folder's name and the path in it: `photos/cat.jpg`."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        """List the files; none is read yet.

        Args:
            folder: Where to look. Links to other folders are not followed.
            limit: Read at most so many files; None for all.

        Raises:
            SourceError: There is no image file.
        """
        self._folder = folder.resolve()
        self.name = self._folder.name + (f"[:{limit}]" if limit else "")
        self.rejected: list[tuple[str, str]] = []
        self._paths = sorted(
            Path(parent, file)
            for parent, _, files in os.walk(self._folder)
            for file in files
            if Path(file).suffix.lower() in _ENDINGS
        )[:limit]
        if not self._paths:
            raise SourceError(f"folder {folder}: expected image files, such as .png or .jpg, and found none")

    def __len__(self) -> int:
        """Count the files."""
        return len(self._paths)

    def __iter__(self) -> Iterator[Item]:
        """Read the images, ordered by path; a bad one is passed over and listed in `rejected`."""
        self.rejected.clear()
        for path in self._paths:
            key = f"{self._folder.name}/{path.relative_to(self._folder).as_posix()}"
            key = key.encode("utf-8", "backslashreplace").decode()
            try:
                content = path.read_bytes()
                yield Item(key, images.decode(content), "", hashlib.sha256(content).hexdigest())
            except OSError as error:
                self.rejected.append((key, str(error.strerror)))
            except ImageError as error:
                self.rejected.append((key, str(error)))
