"""A folder of images, with its subfolders."""

import os
import stat
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

from ingest.errors import SourceError
from ingest.sources.base import Notes, Options
from ingest.sources.clutter import Kind, kind_of
from ingest.sources.files import File, FilesSource
from ingest.sources.names import text_of


class FolderSource(FilesSource):
    """The images in a folder and its subfolders. A key is the folder's name and the path in it: `photos/cat.jpg`.

    Links to folders outside the folder are followed. If several links lead to the same folder, only one is followed.
    """

    file_errors = (OSError,)

    def __init__(self, folder: Path, options: Options) -> None:
        """Count the images, without reading them.

        Args:
            folder: The folder.
            options: How to read the source.

        Raises:
            SourceError: The folder has no image, or can't be listed.
        """
        self._folder = folder.resolve()
        super().__init__(self._folder, text_of(self._folder.name), options)
        self.count = sum(1 for _ in islice(filter(self.is_image, self._names(Notes())), options.limit))
        if not self.count:
            raise SourceError(
                f"folder {text_of(folder)}: expected image files, such as .png or .jpg, got {self._others()}"
            )

    def files(self, notes: Notes) -> Iterator[File]:
        """Yield the files in the order of their paths, a folder's files before those of its subfolders."""
        return map(self._file, self._names(notes))

    def _others(self) -> str:
        notes = Notes()
        others = [text_of(name) for name in self._names(notes)]
        found = [f"{len(others):,} others, such as {others[0]!r}"] if others else ["none"]
        return "; ".join([*found, *notes.lines()])

    def _names(self, notes: Notes) -> Iterator[str]:
        """Yield the path of each file in the folder, without clutter."""
        followed: set[Path] = set()
        folders = [""]
        while folders:
            folder = folders.pop()
            files, subfolders, links = self._list(folder, notes)
            yield from sorted(files)
            for link in sorted(links):
                if problem := self._follow(link, folder, followed):
                    notes.add(problem, link)
                else:
                    subfolders.append(link)
            folders += sorted(subfolders, reverse=True)

    def _list(self, folder: str, notes: Notes) -> tuple[list[str], list[str], list[str]]:
        """Return the paths of the files, the subfolders and the links to folders in a folder, without clutter."""
        files, subfolders, links = list[str](), list[str](), list[str]()
        try:
            with os.scandir(self._folder / folder) as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if kind_of(name, self._options.exclude) in (Kind.CLUTTER, Kind.EXCLUDED):
                        continue
                    if not _is_folder(entry):
                        files.append(name)
                    elif entry.is_symlink():
                        links.append(name)
                    else:
                        subfolders.append(name)
        except OSError as error:
            self._skip(folder, error, notes)
        return files, subfolders, links

    def _skip(self, folder: str, error: OSError, notes: Notes) -> None:
        """Record a folder that can't be listed, or raise an error if the source must be complete."""
        place = text_of(self._folder / folder)
        if not folder:
            raise SourceError(f"folder {place}: can't be listed: {error.strerror}") from error
        self._check_exists(error)
        if self._options.complete:
            raise SourceError(
                f"folder {place}: can't be listed: {error.strerror}: its images would be removed from the gallery; "
                f"make it readable, or leave it out with --exclude '{text_of(folder)}'"
            ) from error
        notes.add(f"folders that can't be listed ({error.strerror})", folder)

    def _follow(self, link: str, folder: str, followed: set[Path]) -> str:
        """Record the target folder of a link, or return the reason why the link is not followed."""
        try:
            target = (self._folder / link).resolve()
        except (OSError, RuntimeError):
            return "links that lead nowhere"
        if target in followed or target.is_relative_to(self._folder):
            return "links to folders that are read anyway"
        if self._folder.is_relative_to(target) or (self._folder / folder).resolve().is_relative_to(target):
            return "links to folders that contain them"
        followed.add(target)
        return ""

    def _file(self, name: str) -> File:
        path = f"{self._folder}/{name}"
        try:
            status = os.stat(path)  # noqa: PTH116  # twice as fast as `Path.stat`
        except OSError as error:
            self._check_exists(error)
            return File(name, 0, partial(self._open, path), f"can't be read: {error.strerror}")
        # reading from a pipe could block forever
        problem = "" if stat.S_ISREG(status.st_mode) else "expected a regular file, got a pipe, a socket or a device"
        return File(name, status.st_size, partial(self._open, path), problem)

    def _open(self, path: str) -> IO[bytes]:
        try:
            return open(path, "rb")  # noqa: PTH123
        except OSError as error:
            self._check_exists(error)
            raise

    def _check_exists(self, error: OSError) -> None:
        if not self._folder.is_dir():
            raise SourceError(f"folder {text_of(self._folder)}: it disappeared while it was read") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
