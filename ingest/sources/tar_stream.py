"""Read a tar, plain or compressed, from its start to its end: seeking back in a compressed file is slow."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from ingest.sources.streams import open_stream

_ZEROS = bytes(tarfile.BLOCKSIZE)
# Bytes per read when skipping a part of a compressed file.
_SKIPPED_BYTES = 1024 * 1024


class TarStream:
    """The decompressed bytes of a tar: a context manager with the methods of a file that `tarfile` needs."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            OSError: The file can't be opened.
            SourceError: The package that decompresses the file is not installed.
        """
        self._file = open_stream(path)
        self._position = 0
        self._last = b""
        self._unread = b""

    def __enter__(self) -> "TarStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes."""
        content = self._unread or self._file.read(size)
        self._unread = b""
        self._last = content
        self._position += len(content)
        return content

    def tell(self) -> int:
        """Return the position of the next byte that `read` returns."""
        return self._position

    def seek(self, position: int) -> None:
        """Skip the bytes before a later position.

        Raises:
            OSError: The position is before the current one.
        """
        if position < self._position:
            raise OSError("its parts are out of order")
        if self._file.seekable() and not self._unread:
            self._file.seek(position)
            self._position = position
        while self._position < position and self.read(min(position - self._position, _SKIPPED_BYTES)):
            pass

    def members(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        """Yield each member with the tar that contains it. `cat` may have appended further tars to the first one.

        Raises:
            TarError: The tar is truncated or damaged.
        """
        file: Any = self
        count, has_more = 0, True
        while has_more:
            archive: Any = tarfile.TarFile(fileobj=file, errors="backslashreplace")
            while (member := archive.next()) is not None:
                archive.members.clear()  # otherwise tarfile keeps every member in memory
                count += 1
                yield archive, member
            # tarfile also ends at a damaged or missing header, but only a block of zeros is the real end
            if self._last != _ZEROS:
                raise tarfile.ReadError(f"truncated or damaged after {count:,} files")
            has_more = self._next_header()

    def skip_to_end(self) -> None:
        """Read the rest of the file, so that its checksum, which is at the end of a compressed file, is verified."""
        while self.read(_SKIPPED_BYTES):
            pass

    def _next_header(self) -> bool:
        """Skip the zeros that end a tar, and return whether another tar follows. Bytes that are no tar are ignored."""
        while self.read(tarfile.BLOCKSIZE) == _ZEROS:
            pass
        try:
            tarfile.TarInfo.frombuf(self._last, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            return False
        self._position -= len(self._last)
        self._unread = self._last
        return True
