"""The list of a version's files with their sizes and SHA-256 sums: `manifest.json`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gallery.errors import StoreDamagedError
from gallery.files import replace_file
from gallery.findings import FINDINGS
from gallery.formats import FORMAT_KEY, check_format, parse_object
from gallery.journal import JOURNAL
from gallery.map import MAP

MANIFEST = "manifest.json"
"""Name of the manifest in a version's folder."""
OPEN = "OPEN"
"""Name of the lock file. The process that has the version open holds the lock."""
GROWN = "GROWN"
"""Name of the file that marks a version as modified since it was published.

It contains the manifest from before the latest modifications, or is empty. A version that is being modified has this
file and no manifest.
"""
REPLACES = "REPLACES"
"""Name of the file in a version that a compaction is making. It contains the name of the version to replace, "v2".

It is removed after the replaced version. So a process that finds it knows what a killed compaction has left: an
unfinished version if the version with this file is not live, otherwise the replaced version.
"""

_FORMAT = 1
# Files and folders that a manifest leaves out. The last is Qdrant's write-ahead log, which a closed shard doesn't need.
_IGNORED = (OPEN, GROWN, JOURNAL, MAP, FINDINGS, REPLACES, "shard/wal/")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileSum:
    """The size in bytes and the SHA-256 (64 hex digits) of a file."""

    size: int
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> FileSum:
        """Return the size and the SHA-256 of a file with this content."""
        return cls(len(content), hashlib.sha256(content).hexdigest())

    @classmethod
    def from_json(cls, facts: Any) -> FileSum:
        """Return the size and the SHA-256 that a parsed JSON object contains.

        Raises:
            KeyError, TypeError, ValueError: The object has another form.
        """
        size, sha256 = facts["size"], facts["sha256"]
        if type(size) is not int or size < 0:
            raise ValueError("expected a size of 0 bytes or more")
        if not _SHA256.fullmatch(sha256):
            raise ValueError("expected a SHA-256 of 64 hex digits")
        return cls(size, sha256)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of one version, by path in the version's folder."""

    files: Mapping[str, FileSum]

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
        parsed = parse_object(content)
        check_format(parsed, _FORMAT, place)
        try:
            # in manifests of release 0.1.0, the whole object is the list of files
            files = parsed["files"] if FORMAT_KEY in parsed else parsed
            return cls({_relative(name): FileSum.from_json(facts) for name, facts in files.items()})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected a list of files ({error})") from error

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a version.

        Raises:
            StoreDamagedError: The manifest is missing or unreadable.
            NewerFormatError: A newer release wrote the manifest, in a format that this one can't read.
        """
        path = folder / MANIFEST
        try:
            return cls.from_bytes(path.read_bytes(), str(path))
        except FileNotFoundError:
            raise StoreDamagedError(
                f"no {MANIFEST}: a load into this version was interrupted: run the same `ingest load …` again",
                place=str(folder),
            ) from None
        except (OSError, ValueError) as error:
            raise StoreDamagedError(f"can't be read: {error}", place=str(path)) from error

    def to_bytes(self) -> bytes:
        """Return the content of the manifest's file."""
        files = {name: asdict(file) for name, file in self.files.items()}
        return (json.dumps({FORMAT_KEY: _FORMAT, "files": files}, indent=1) + "\n").encode()

    def missing(self, folder: Path) -> list[str]:
        """Return a line for each file of the manifest that a version's folder lacks."""
        return [f"{name} is missing" for name in sorted(self.files) if not (folder / name).is_file()]

    def differences(self, folder: Path, under: str = "", *, with_content: bool = True) -> list[str]:
        """Compare the files in a version's folder with the manifest.

        Args:
            folder: The folder.
            under: Compare only files whose path begins with this text, such as "shard/"; empty for all files.
            with_content: Compare contents too, which reads every file. If False, compare only names and sizes.

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
            elif with_content and _sha256(path) != file.sha256:
                lines.append(f"{name}: its content has changed since it was written (SHA-256)")
        return lines


def write_manifest(folder: Path) -> None:
    """Write the manifest of a closed version."""
    files = {name: FileSum((folder / name).stat().st_size, _sha256(folder / name)) for name in _names(folder)}
    replace_file(folder / MANIFEST, Manifest(files).to_bytes())


def _relative(name: str) -> str:
    """Return the path of a file in a version's folder unchanged; raise ValueError if it leads out of the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or "\0" in name:
        raise ValueError(f"expected relative paths, got {name!r:.80}")
    return name


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST and not name.startswith(_IGNORED):
            yield name
