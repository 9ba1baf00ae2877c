"""A version of a gallery in one file: a .tar.gz that begins with the manifest and the manifest's SHA-256 sum.

`tar xf FILE` unpacks it anywhere.
"""

import hashlib
import io
import tarfile
import zlib
from pathlib import Path

from gallery.edge.manifest import MANIFEST, Manifest
from gallery.errors import BackupError
from gallery.files import replacing

_SUM = f"{MANIFEST}.sha256"


def pack(folder: Path, file: Path) -> None:
    """Write a backup of a version that no process modifies. A service may have the version open.

    Raises:
        StoreDamagedError: The version has no readable manifest.
        BackupError: The version's files differ from its manifest, or the backup can't be written.
    """
    manifest = Manifest.read(folder)
    problems = manifest.differences(folder)
    if problems:
        raise BackupError(
            f"this version is not as it was built, so no backup is made: {problems[0]}: see `ingest check`",
            place=str(folder),
        )
    content = manifest.to_bytes()
    try:
        with replacing(file) as part, tarfile.open(fileobj=part, mode="w:gz", compresslevel=1) as archive:
            _add(archive, MANIFEST, content)
            _add(archive, _SUM, f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n".encode())
            for name in manifest.files:
                archive.add(folder / name, arcname=name, recursive=False)
    except OSError as error:
        raise BackupError(
            f"can't be written: {error.strerror}: name a file in another folder", place=f"backup {file}"
        ) from error


def unpack(file: Path, folder: Path) -> None:
    """Unpack a backup into an empty folder, and compare every file with its sum.

    Raises:
        BackupError: The file is not a backup, is incomplete or has been altered. Files unpacked before stay in the
            folder.
        NewerFormatError: A newer release made the backup.
    """
    place = f"backup {file}"
    try:
        with tarfile.open(file, "r:gz") as archive:
            content, line = _read(archive, MANIFEST), _read(archive, _SUM)
            if line.split()[:1] != [hashlib.sha256(content).hexdigest().encode()]:
                raise BackupError(f"its {MANIFEST} has been altered: use another copy", place=place)
            manifest = Manifest.from_bytes(content, place)
            for name in manifest.files:
                member = archive.next()
                if member is None or member.name != name or not member.isreg():
                    raise BackupError(f"expected {name}, got {member and member.name}: use another copy", place=place)
                archive.extract(member, folder, filter="data")
            # Read to the end of the file, which shows whether it is complete.
            while archive.fileobj and archive.fileobj.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise BackupError(
            f"expected a complete file from `ingest backup`, got one that can't be read ({error})", place=place
        ) from error
    except OSError as error:
        raise BackupError(f"can't be read: {error.strerror or error}", place=place) from error
    (folder / MANIFEST).write_bytes(content)
    problems = manifest.differences(folder)
    if problems:
        raise BackupError(f"it has been altered: {problems[0]}: use another copy", place=place)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.next()
    file = archive.extractfile(member) if member and member.name == name and member.isreg() else None
    if file is None:
        raise tarfile.ReadError(f"no {name} in it")
    return file.read()
