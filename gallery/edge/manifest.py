"""The list of a version's files with their sizes and SHA-256 sums: `manifest.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gallery.errors import StoreDamagedError
from gallery.files import replace_file
from gallery.formats import FORMAT_KEY, check_format
from gallery.journal import JOURNAL

MANIFEST = "manifest.json"
"""Name of the manifest in a version's folder."""
OPEN = "OPEN"
"""Name of the lock file of the one process that may have a version open."""
GROWN = "GROWN"
"""Name of the empty file that marks a version as modified by a service since it was published."""

_FORMAT = 1
# Files that a manifest leaves out. The last is Qdrant's write-ahead log, which is not needed once the shard is closed.
_IGNORED = (OPEN, GROWN, JOURNAL, "shard/wal/")


@dataclass(frozen=True, slots=True)
class _File:
    """Size in bytes and SHA-256 (64 hex digits) of a file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of one version, by their paths in its folder."""

    files: Mapping[str, _File]

    @classmethod
    def from_bytes(cls, content: bytes, place: str) -> Manifest:
        """Parse a manifest.

        Args:
            content: The bytes of the file.
            place: The file, for errors.

        Raises:
            NewerFormatError: A newer release wrote the manifest, in a format that this one can't read.
            ValueError: The content is not a manifest.
        """
        parsed = json.loads(content)
        try:
            check_format(parsed, _FORMAT, place)
            files = parsed["files"] if FORMAT_KEY in parsed else parsed  # release 0.1.0 wrote the files alone
            return cls({name: _File(int(facts["size"]), str(facts["sha256"])) for name, facts in files.items()})
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"expected a list of files, got {parsed!r:.80}") from error

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a version.

        Raises:
            StoreDamagedError: The manifest is missing, as after an interrupted load, or unreadable.
            NewerFormatError: A newer release wrote the manifest, in a format that this one can't read.
        """
        path = folder / MANIFEST
        try:
            return cls.from_bytes(path.read_bytes(), str(path))
        except FileNotFoundError:
            raise StoreDamagedError(
                f"no {MANIFEST}: a load into this version was interrupted, or a running service modifies it: run the "
                "same `ingest load …` again, or stop the service first",
                place=str(folder),
            ) from None
        except (OSError, ValueError) as error:
            raise StoreDamagedError(f"can't be read: {error}", place=str(path)) from error

    def to_bytes(self) -> bytes:
        """Return the content of the manifest's file."""
        files = {name: asdict(file) for name, file in self.files.items()}
        return (json.dumps({FORMAT_KEY: _FORMAT, "files": files}, indent=1) + "\n").encode()

    def differences(self, folder: Path, under: str = "") -> list[str]:
        """Compare the files in a version's folder with the manifest.

        Args:
            folder: The folder.
            under: Compare only files whose path begins like this, such as "shard/"; empty for all files.

        Returns:
            One line for each file that is missing, unexpected or altered.
        """
        expected = {name for name in self.files if name.startswith(under)}
        present = {name for name in _names(folder) if name.startswith(under)}
        lines = [f"{name} is missing" for name in sorted(expected - present)]
        lines += [f"{name} does not belong there" for name in sorted(present - expected)]
        for name in sorted(present & expected):
            path, file = folder / name, self.files[name]
            if path.stat().st_size != file.size:
                lines.append(f"{name}: expected {file.size:,} bytes, got {path.stat().st_size:,}")
            elif _sha256(path) != file.sha256:
                lines.append(f"{name}: its content has changed since it was written (SHA-256)")
        return lines


def write_manifest(folder: Path) -> None:
    """Write the manifest of a closed version."""
    files = {name: _File((folder / name).stat().st_size, _sha256(folder / name)) for name in _names(folder)}
    replace_file(folder / MANIFEST, Manifest(files).to_bytes())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST and not name.startswith(_IGNORED):
            yield name
