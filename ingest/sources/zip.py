"""A zip of images, read without unpacking it. The paths in it become keys and are never opened on the disk."""

import io
import stat
import zipfile
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

from ingest.sources.base import Notes, Options
from ingest.sources.files import DANGLING, LINKED_FOLDER, REPLACED, File, FilesSource
from ingest.sources.names import comparable, follow_links, is_archive, linked_name, stem_of
from ingest.sources.streams import ZIP_ERRORS, reading

_EXPECTED = "a complete .tar or .zip of images"


class ZipSource(FilesSource):
    """The images in a zip. A symbolic link to a file in the zip counts as one more image, with the link's name."""

    file_errors = ZIP_ERRORS

    def __init__(self, path: Path, options: Options) -> None:
        """Open the zip and read its list of files.

        Args:
            path: The zip.
            options: How to read the source.

        Raises:
            SourceError: The file is not a zip, or has no list of files at its end.
        """
        super().__init__(path, stem_of(path), options)
        self._path = path
        images = (file for file in self.files(Notes()) if self.is_image(file.name))
        self.count = sum(1 for _ in islice(images, options.limit))

    def files(self, notes: Notes) -> Iterator[File]:
        """Yield the files sorted by name, so that label files come next to their images."""
        with reading(self._path, _EXPECTED), zipfile.ZipFile(self._path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            last = {comparable(member.filename): member for member in members}
            targets = _link_targets(archive, members)
            folders = {str(folder) for name in last for folder in PurePosixPath(name).parents}
            for member in sorted(members, key=lambda member: comparable(member.filename)):
                name = comparable(member.filename)
                target = follow_links(name, targets)
                content = last.get(target)
                if last[name] is not member:
                    notes.add(REPLACED, member.filename)
                elif content is not None and target not in targets:
                    yield File(member.filename, content.file_size, partial(archive.open, content))
                elif target in folders:
                    notes.add(LINKED_FOLDER, member.filename)
                else:
                    yield File(member.filename, 0, io.BytesIO, DANGLING.format(targets[name]))


def is_zip(path: Path) -> bool:
    """Return whether a file is a zip, by its first bytes or, for a self-extracting file, by its name."""
    if not is_archive(path):
        return False
    with path.open("rb") as file:
        begins_like_zip = file.read(2) == b"PK"
    return begins_like_zip or (path.suffix.lower() in (".zip", ".cbz") and zipfile.is_zipfile(path))


def _link_targets(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> dict[str, str]:
    targets: dict[str, str] = {}
    for member in members:
        if stat.S_ISLNK(member.external_attr >> 16) and member.file_size < 4096:  # the longest path on Linux
            try:
                target = archive.read(member).decode("utf-8", "replace")
            except ZIP_ERRORS:
                continue
            targets[comparable(member.filename)] = linked_name(member.filename, target, is_symbolic=True)
    return targets
