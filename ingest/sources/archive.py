"""A .tar or .zip of images, read as a stream. Nothing is unpacked: a path in the archive is only ever a key."""

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO

from encoder_service.limits import LIMITS
from ingest.errors import SourceError
from ingest.sources.base import Item, limited_name

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


class ArchiveSource:
    """The images in an archive. A key is the archive's name and the path inside: `photos/cat.jpg`.

    Every file except hidden ones counts as an image, whatever its extension.
    """

    def __init__(self, path: Path, limit: int | None = None) -> None:
        """Open the archive and read its beginning.

        Args:
            path: The archive.
            limit: Maximum number of images to read; None for all.

        Raises:
            SourceError: The file is not an archive, or can't be read.
        """
        self._path = path
        self._limit = limit
        self._stem = path.name.removesuffix(next((e for e in ENDINGS if path.name.endswith(e)), ""))
        self.name = limited_name(path.name, limit)
        self.place = str(path.resolve())
        self.count = limit
        self._is_zip = zipfile.is_zipfile(path)
        with self._errors():
            if self._is_zip:
                with zipfile.ZipFile(path) as archive:
                    total = sum(not member.is_dir() for member in archive.infolist())
                self.count = total if limit is None else min(limit, total)
            else:
                with tarfile.open(path) as archive:
                    archive.next()

    def __iter__(self) -> Iterator[Item]:
        """Read the images in the order of the archive."""
        items = self._zip_items() if self._is_zip else self._tar_items()
        with self._errors():
            yield from islice(items, self._limit)

    def _tar_items(self) -> Iterator[Item]:
        size = self._path.stat().st_size
        with self._path.open("rb") as raw, tarfile.open(fileobj=raw, errors="backslashreplace") as archive:
            read = 0
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # otherwise tarfile keeps every member in memory
                if member.isdir() or not _is_visible(member.name):
                    continue
                read += 1
                if self._limit is None:
                    self.count = max(read, round(read * size / max(raw.tell(), 1)))
                yield self._item(member.name, member.size, archive.extractfile(member) if member.isreg() else None)
            # tarfile takes a damaged or missing header for the end; the real end is a block of zeros
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"truncated or damaged after {read:,} files")

    def _zip_items(self) -> Iterator[Item]:
        with zipfile.ZipFile(self._path) as archive:
            for member in archive.infolist():
                if member.is_dir() or not _is_visible(member.filename):
                    continue
                try:
                    yield self._item(member.filename, member.file_size, archive.open(member))
                except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError) as error:
                    yield Item(self._key(member.filename), b"", problem=f"can't be read: {error}")

    def _item(self, name: str, size: int, file: IO[bytes] | None) -> Item:
        if file is None:
            return Item(self._key(name), b"", problem="expected a regular file, got a link or a device")
        if size > LIMITS.max_image_bytes:
            return Item(
                self._key(name), b"", problem=f"expected at most {LIMITS.max_image_bytes:,} bytes, got {size:,}"
            )
        with file:
            return Item(self._key(name), file.read())

    def _key(self, name: str) -> str:
        return f"{self._stem}/{name.removeprefix('./')}".encode("utf-8", "backslashreplace").decode()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, zlib.error) as error:
            reason = " ".join(str(error).split())
            raise SourceError(
                f"{self._path}: expected a complete .tar or .zip of images, got one that can't be read ({reason})"
            ) from error


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") and part not in (".", "..") for part in PurePosixPath(name).parts)
