"""A tar of images, plain or compressed, read as a stream. Its paths become keys and are never opened on the disk."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ingest.sources.base import Notes, Options
from ingest.sources.files import DANGLING, File, FilesSource
from ingest.sources.names import comparable, stem_of
from ingest.sources.streams import reading
from ingest.sources.tar_index import is_link, read_index
from ingest.sources.tar_stream import TarStream

_EXPECTED = "a complete .tar or .zip of images"


class TarSource(FilesSource):
    """The images in a tar. A link to a file in the tar counts as one more image, and is read with that file."""

    def __init__(self, path: Path, options: Options) -> None:
        """Open the tar and read its headers.

        Args:
            path: The tar.
            options: How to read the source.

        Raises:
            SourceError: The file is not a tar, or is damaged.
        """
        super().__init__(path, stem_of(path), options)
        self._path = path
        with reading(path, _EXPECTED), TarStream(path) as stream:
            self._index = read_index(stream, self.is_image, options.limit)
        self.count = self._index.count

    def files(self, notes: Notes) -> Iterator[File]:
        """Yield the files in the order of the tar."""
        index = self._index
        with reading(self._path, _EXPECTED), TarStream(self._path) as stream:
            for number, (archive, member) in enumerate(stream.members()):
                if number in index.left_out:
                    notes.add(index.left_out[number], member.name)
                elif number in index.dangling:
                    yield File(member.name, 0, io.BytesIO, DANGLING.format(member.linkname))
                elif member.isreg():
                    content = _Content(self._path, archive, member)
                    for name in (member.name, *index.links.get(comparable(member.name), ())):
                        yield File(name, member.size, content.open)
                elif not member.isdir() and not is_link(member):
                    yield File(member.name, 0, io.BytesIO, "expected a regular file, got a pipe or a device")


class _Content:
    """The content of a member. It is read only once, even if links lead to the member."""

    def __init__(self, path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self._path, self._archive, self._member = path, archive, member
        self._content: bytes | None = None

    def open(self) -> IO[bytes]:
        if self._content is None:
            with reading(self._path, _EXPECTED):
                file = self._archive.extractfile(self._member)
                self._content = file.read() if file else b""
        return io.BytesIO(self._content)
