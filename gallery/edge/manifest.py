"""What files a version of a gallery consists of, with their sizes and sums: `manifest.json`."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from gallery.errors import StoreDamagedError
from gallery.files import replace_file

MANIFEST = "manifest.json"
GROWN = "GROWN"
"""A file that is there when a service has changed the version since a load did."""

# The lock that says who has it open; and Qdrant's log of writes, of which nothing is needed once the shard is closed.
_PASSED_OVER = ("OPEN", GROWN, "shard/wal/")


def write_manifest(folder: Path) -> None:
    """Write the manifest of a closed version."""
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)} for name in _files(folder)
    }
    replace_file(folder / MANIFEST, (json.dumps(files, indent=1) + "\n").encode())


def read_manifest(folder: Path) -> dict[str, dict[str, int | str]]:
    """Return size and SHA-256 of each file, by its path in the version's folder.

    Raises:
        StoreDamagedError: There is no manifest, as after a load that was cut off, or it can't be read.
    """
    try:
        files: dict[str, dict[str, int | str]] = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise StoreDamagedError(
            f"{folder} has no {MANIFEST}: a load into it was cut off, or a service that changes it is running: run the "
            "same `ingest load …` again, or end the service first"
        ) from None
    except (OSError, ValueError) as error:
        raise StoreDamagedError(f"{folder / MANIFEST} can't be read: {error}") from error
    return files


def differences(folder: Path, under: str = "") -> list[str]:
    """Compare a version's files with its manifest.

    Args:
        folder: The version's.
        under: Only files whose path in it begins so: "shard/"; empty for all.

    Returns:
        One line for each file that is missing, too many, or not as it was.

    Raises:
        StoreDamagedError: There is no manifest to compare with.
    """
    expected = {name: facts for name, facts in read_manifest(folder).items() if name.startswith(under)}
    found = {name for name in _files(folder) if name.startswith(under)}
    lines = [f"{name} is missing" for name in sorted(expected.keys() - found)]
    lines += [f"{name} does not belong there" for name in sorted(found - expected.keys())]
    for name in sorted(found & expected.keys()):
        path, facts = folder / name, expected[name]
        if path.stat().st_size != facts["size"]:
            lines.append(f"{name}: expected {facts['size']:,} bytes, got {path.stat().st_size:,}")
        elif file_sha256(path) != facts["sha256"]:
            lines.append(f"{name}: its SHA-256 is another than when it was written")
    return lines


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST and not name.startswith(_PASSED_OVER):
            yield name
