"""A version of a gallery in one file: a .tar.gz of its files, the manifest first and its sum after it.

`tar xf FILE` unpacks it anywhere.
"""

import hashlib
import io
import json
import tarfile
import zlib
from pathlib import Path

from gallery.edge.manifest import MANIFEST, differences, read_manifest
from gallery.errors import BackupError
from gallery.files import replacing

_SUM = f"{MANIFEST}.sha256"


def pack(folder: Path, file: Path) -> None:
    """Write a backup of a version that nobody writes to; a service may have it open.

    Raises:
        StoreDamagedError: The version's files are not what its manifest says.
        BackupError: The file can't be written.
    """
    content = (folder / MANIFEST).read_bytes() if read_manifest(folder) else b""
    wrong = differences(folder)
    if wrong:
        raise BackupError(f"{folder} is not as it was built, and not worth a backup: {wrong[0]}: see `ingest check`")
    try:
        with replacing(file) as part, tarfile.open(fileobj=part, mode="w:gz", compresslevel=1) as archive:
            _add(archive, MANIFEST, content)
            _add(archive, _SUM, f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n".encode())
            for name in json.loads(content):
                archive.add(folder / name, arcname=name, recursive=False)
    except OSError as error:
        raise BackupError(f"backup {file} can't be written: {error.strerror}: name a file in another folder") from error


def unpack(file: Path, folder: Path) -> None:
    """Unpack a backup into an empty folder, and compare every file with its sum.

    Raises:
        BackupError: It is no backup, cut off or altered; the folder is left with what came before.
    """
    try:
        with tarfile.open(file, "r:gz") as archive:
            content, line = _read(archive, MANIFEST), _read(archive, _SUM)
            if line.split()[:1] != [hashlib.sha256(content).hexdigest().encode()]:
                raise BackupError(f"backup {file}: its {MANIFEST} has been altered: use another copy")
            for name in json.loads(content):
                member = archive.next()
                if member is None or member.name != name or not member.isreg():
                    raise BackupError(f"backup {file}: expected {name}, got {member and member.name}: use another copy")
                archive.extract(member, folder, filter="data")
            while archive.fileobj and archive.fileobj.read(1 << 20):  # to the very end, or it is cut off
                pass
    except (tarfile.TarError, EOFError, zlib.error, ValueError, KeyError) as error:
        raise BackupError(
            f"backup {file}: expected a whole file from `ingest backup`, got one that can't be read ({error})"
        ) from error
    except OSError as error:
        raise BackupError(f"backup {file}: {error.strerror or error}") from error
    (folder / MANIFEST).write_bytes(content)
    wrong = differences(folder)
    if wrong:
        raise BackupError(f"backup {file}: it has been altered: {wrong[0]}: use another copy")


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
