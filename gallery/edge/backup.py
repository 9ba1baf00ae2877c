"""Backups: a version of a gallery in one .tar.gz file, which begins with the manifest and the manifest's SHA-256.

`tar xf FILE` unpacks a backup anywhere. As a backup may come from an untrusted source, `unpack` reads it in pieces,
verifies it, and writes no file that the manifest does not list.
"""

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

from gallery.edge.manifest import MANIFEST, FileSum, Manifest
from gallery.errors import BackupError
from gallery.files import check_space, file_errors, replacing

_SUM = f"{MANIFEST}.sha256"
# Maximum size of a manifest in bytes. It has about 250 bytes for each file, and a segment has about 50 files. So the
# limit allows more than a thousand segments, and parsing takes less than 0.5 GB of memory.
_MAX_MANIFEST = 16 * 1024 * 1024
# Maximum bytes of tar headers and padding, for each file and for the end of the archive.
_HEADER = 8 * 1024
_END = 64 * 1024
# Maximum bytes per read. `tarfile` reads each header at once and keeps up to a few hundred headers in memory. So this
# also limits the memory that a malicious backup can take up with large headers.
_CHUNK = 64 * 1024


def pack(folder: Path, file: Path, replaced: Mapping[str, bytes]) -> None:
    """Write a backup of a version that no process modifies. A service may have the version open.

    Args:
        folder: The version's folder.
        file: The backup.
        replaced: Files, by path, that the backup gets with these contents instead of those in the folder. The manifest
            need not list them.

    Raises:
        StoreDamagedError: The version has no readable manifest.
        BackupError: The version's files differ from its manifest or change during the backup, or the backup can't be
            written.
    """
    manifest = Manifest.read(folder)
    problems = manifest.differences(folder)
    if problems:
        raise BackupError(
            f"this version is not as it was built, so no backup is made: {problems[0]}: see `ingest check`",
            place=str(folder),
        )
    sums = {name: FileSum.of(content) for name, content in replaced.items()}
    content = Manifest({**manifest.files, **sums}).to_bytes()
    try:
        with replacing(file) as part:
            with tarfile.open(fileobj=part, mode="w:gz", compresslevel=1) as archive:
                _add(archive, MANIFEST, content)
                _add(archive, _SUM, f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n".encode())
                for name in {**manifest.files, **sums}:
                    if name in replaced:
                        _add(archive, name, replaced[name])
                    else:
                        archive.add(folder / name, arcname=name, recursive=False)
            # processes remove the manifest before their first change, so an equal manifest means that no file changed
            if not (folder / MANIFEST).exists() or Manifest.read(folder) != manifest:
                raise BackupError(
                    "the version was modified during the backup: run the same command again", place=str(folder)
                )
    except OSError as error:
        raise BackupError(
            f"can't be written: {error.strerror}: name a file in another folder", place=f"backup {file}"
        ) from error


def unpack(file: Path, folder: Path) -> None:
    """Unpack a backup into an empty folder, and compare every file with its checksum.

    Raises:
        BackupError: The file is not a backup, is incomplete or has been altered. The folder may then have some files.
        NewerFormatError: A newer release made the backup.
        StoreError: The folder's disk is full or can't be written.
    """
    place = f"backup {file}"
    try:
        with gzip.open(file) as plain:
            content = _Content(cast(IO[bytes], plain))
            with tarfile.open(fileobj=content, mode="r:") as archive:
                _unpack(archive, content, folder, place)
            content.read_rest()
    except (tarfile.TarError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise BackupError(
            f"expected a complete file from `ingest backup`, got one that can't be read ({error})", place=place
        ) from error
    except OSError as error:
        raise BackupError(f"can't be read: {error.strerror or error}", place=place) from error


class _Content(io.RawIOBase):
    """The decompressed bytes of a backup. They can only be read forward, in small pieces, and up to a limit."""

    def __init__(self, plain: IO[bytes]) -> None:
        """Begin at the start of an open file. Until `expect_files` is called, only a manifest can be read."""
        self._plain = plain
        self._limit = _MAX_MANIFEST + _END
        self._largest_piece = _MAX_MANIFEST

    def expect_files(self, manifest: Manifest) -> None:
        """Allow reading the files that a manifest lists, and nothing beyond them."""
        self._limit = self.tell() + sum(_HEADER + file.size for file in manifest.files.values()) + _END
        self._largest_piece = _CHUNK

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes.

        Raises:
            tarfile.ReadError: The archive has more bytes than expected.
        """
        if not 0 <= size <= self._largest_piece:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        content = self._plain.read(size)
        self._check(self.tell())
        return content

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Skip to a position, at or after the current one.

        Raises:
            tarfile.ReadError: The position is before the current one, or beyond the expected end.
        """
        if position < self.tell():
            raise tarfile.ReadError("its files are out of order")
        self._check(position)
        return self._plain.seek(position)

    def tell(self) -> int:
        """Return the position."""
        return self._plain.tell()

    def read_rest(self) -> None:
        """Read to the end, which raises an error if the file is truncated."""
        while self.read(_CHUNK):
            pass

    def _check(self, position: int) -> None:
        if position > self._limit:
            raise tarfile.ReadError(f"more than the {self._limit:,} bytes that are expected")


def _unpack(archive: tarfile.TarFile, content: _Content, folder: Path, place: str) -> None:
    manifest_bytes, line = _read(archive, MANIFEST), _read(archive, _SUM)
    if line.split()[:1] != [hashlib.sha256(manifest_bytes).hexdigest().encode()]:
        raise BackupError(f"its {MANIFEST} has been altered: use another copy", place=place)
    manifest = Manifest.from_bytes(manifest_bytes, place)
    check_space(folder, sum(file.size for file in manifest.files.values()))
    content.expect_files(manifest)
    for name, file in manifest.files.items():
        member = _next(archive, name, place)
        if member.size != file.size:
            raise BackupError(
                f"it has been altered: {name}: expected {file.size:,} bytes, got {member.size:,}: use another copy",
                place=place,
            )
        if _extract(archive, member, folder / name) != file.sha256:
            raise BackupError(f"it has been altered: {name}: its content has changed: use another copy", place=place)
    with file_errors(str(folder)):
        (folder / MANIFEST).write_bytes(manifest_bytes)


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> str:
    """Write a member of an archive into a file, and return the SHA-256 of its content."""
    digest = hashlib.sha256()
    source = archive.extractfile(member)
    assert source is not None
    with file_errors(str(path.parent)):
        path.parent.mkdir(parents=True, exist_ok=True)
        target = path.open("xb")
    with target:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            with file_errors(str(path)):
                target.write(chunk)
    return digest.hexdigest()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _next(archive: tarfile.TarFile, name: str, place: str) -> tarfile.TarInfo:
    """Return the next member of an archive, which must be a plain file of this name."""
    member = archive.next()
    if member is None or member.name != name or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise BackupError(f"expected {name}, got {member and member.name}: use another copy", place=place)
    return member


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.next()
    if member is None or member.name != name or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise tarfile.ReadError(f"no {name} in it")
    if member.size > _MAX_MANIFEST:
        raise tarfile.ReadError(f"{name}: expected at most {_MAX_MANIFEST:,} bytes, got {member.size:,}")
    file = archive.extractfile(member)
    assert file is not None
    return file.read()
