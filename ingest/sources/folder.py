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
    """The images below a folder. A key is the folder's name and the path inside: `photos/cat.jpg`.

    A link to a folder elsewhere is followed, once for each such folder.
    """

    file_errors = (OSError,)

    def __init__(self, folder: Path, options: Options) -> None:
        """Count the images, without reading them.

        Args:
            folder: The folder.
            options: Options of the reading.

        Raises:
            SourceError: The folder has no image, or can't be listed.
        """
        self._folder = folder.resolve()
        super().__init__(self._folder, text_of(self._folder.name), options)
        images = (path for path in self._paths(Notes()) if self.is_image(self._name(path)))
        self.count = sum(1 for _ in islice(images, options.limit))
        if not self.count:
            raise SourceError(
                f"folder {text_of(folder)}: expected image files, such as .png or .jpg, got {self._others()}"
            )

    def files(self, notes: Notes) -> Iterator[File]:
        """Go through the files in the order of their paths, those of a folder before those of its subfolders."""
        return map(self._file, self._paths(notes))

    def _others(self) -> str:
        notes = Notes()
        others = [text_of(self._name(path)) for path in self._paths(notes)]
        found = [f"{len(others):,} others, such as {others[0]!r}"] if others else ["none"]
        return "; ".join([*found, *notes.lines()])

    def _paths(self, notes: Notes) -> Iterator[Path]:
        followed: set[Path] = set()
        folders = [self._folder]
        while folders:
            folder = folders.pop()
            files, subfolders = self._list(folder, notes)
            yield from files
            for link in [path for path in subfolders if path.is_symlink()]:
                if problem := self._follow(link, folder, followed):
                    notes.add(problem, self._name(link))
                    subfolders.remove(link)
            folders += reversed(subfolders)

    def _list(self, folder: Path, notes: Notes) -> tuple[list[Path], list[Path]]:
        """Return the files and the subfolders of a folder, without clutter, in the order of their names."""
        files, subfolders = list[Path](), list[Path]()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    path = folder / entry.name
                    if kind_of(self._name(path), self._options.exclude) not in (Kind.CLUTTER, Kind.EXCLUDED):
                        (subfolders if _is_folder(entry) else files).append(path)
        except OSError as error:
            name = self._name(folder)
            if folder == self._folder:
                raise SourceError(f"folder {text_of(folder)}: can't be listed: {error.strerror}") from error
            if not self._folder.is_dir():
                raise self._disappeared() from error
            if self._options.complete:
                raise SourceError(
                    f"folder {text_of(folder)}: can't be listed: {error.strerror}: its images would be removed from "
                    f"the gallery; make it readable, or leave it out with --exclude '{name}'"
                ) from error
            notes.add(f"folders that can't be listed ({error.strerror})", name)
            return [], []
        return sorted(files), sorted(subfolders)

    def _follow(self, link: Path, folder: Path, followed: set[Path]) -> str:
        """Note the folder to which a link leads, or return why the link is not followed."""
        try:
            target = link.resolve()
        except (OSError, RuntimeError):
            return "links that lead nowhere"
        if target in followed or target.is_relative_to(self._folder):
            return "links to folders that are read anyway"
        if self._folder.is_relative_to(target) or folder.resolve().is_relative_to(target):
            return "links to folders that contain them"
        followed.add(target)
        return ""

    def _file(self, path: Path) -> File:
        name = self._name(path)
        try:
            status = path.stat()
        except OSError as error:
            if not self._folder.is_dir():
                raise self._disappeared() from error
            return File(name, 0, partial(self._open, path), f"can't be read: {error.strerror}")
        # reading a pipe would block forever
        problem = "" if stat.S_ISREG(status.st_mode) else "expected a regular file, got a pipe, a socket or a device"
        return File(name, status.st_size, partial(self._open, path), problem)

    def _open(self, path: Path) -> IO[bytes]:
        try:
            return path.open("rb")
        except OSError as error:
            if not self._folder.is_dir():
                raise self._disappeared() from error
            raise

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _disappeared(self) -> SourceError:
        return SourceError(f"folder {text_of(self._folder)}: it disappeared while it was read")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
