"""Detect changes of files, so that their readers can read them again."""

from dataclasses import dataclass
from pathlib import Path

from gallery.errors import InvalidInputError


@dataclass(slots=True)
class WatchedFile:
    """A file, and the timestamps, size and inode that it had when it was last read."""

    path: Path
    _read: tuple[int, ...] = ()

    def exists(self) -> bool:
        """Return whether the file exists."""
        return self.path.exists()

    def has_changed(self) -> bool:
        """Return whether the file has changed since it was read; False while it is missing."""
        try:
            return self._stamp() != self._read
        except OSError:  # a file that is being replaced may be missing for a moment
            return False

    def content(self) -> bytes:
        """Read the file.

        Raises:
            InvalidInputError: The file can't be read.
        """
        try:
            stamp = self._stamp()
            content = self.path.read_bytes()
            self._read = stamp
            return content
        except OSError as error:
            raise InvalidInputError(f"can't be read: {error.strerror}", place=str(self.path)) from error

    def _stamp(self) -> tuple[int, ...]:
        stat = self.path.stat()
        return (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)
