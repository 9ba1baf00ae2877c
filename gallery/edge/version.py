"""One version of a gallery: a folder with a shard, the gallery's description, and the state of both.

v2/gallery.json     the description, see `GallerySpec`
v2/manifest.json    the files with their sums; missing while a load or a service modifies them
v2/GROWN            exists if a service has added or deleted images since the version was published
v2/OPEN             lock of the one process that may have the version open
v2/shard/           Qdrant Edge's own files
"""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gallery.edge.manifest import GROWN, MANIFEST, OPEN, Manifest, write_manifest
from gallery.edge.shard import EdgeGallery
from gallery.errors import NewerFormatError, StoreDamagedError, StoreFullError, StoreUnusableError
from gallery.files import Lock, replace_file
from gallery.journal import JOURNAL, note_added, note_deleted
from gallery.spec import GallerySpec
from gallery.types import Entry

SPEC = "gallery.json"
"""Name of the file with a version's description."""


class Version(EdgeGallery):
    """An open shard, and the lock that keeps other processes from opening it."""

    def __init__(self, folder: Path, spec: GallerySpec) -> None:
        """Take the lock and open the shard, or create one.

        Raises:
            StoreLockedError: Another process has the version open.
            StoreError: The shard can't be opened.
        """
        self.folder = folder
        self._open_lock = open_lock(folder, spec.name)
        try:
            super().__init__(folder / "shard", spec)
        except BaseException:
            self._open_lock.close()
            raise

    def close(self) -> None:
        """Close the shard and release the lock."""
        super().close()
        self._open_lock.close()


class LiveVersion(Version):
    """A live version, which its user may modify. If so, closing it records the new count and files."""

    _modified = False

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Store entries, and mark the version as modified by a service."""
        self._mark_modified()
        with file_errors(str(self.folder)):
            note_added(self.folder, [entry.key for entry in entries])
        super().upsert(entries)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the entries with these keys, and mark the version as modified by a service."""
        self._mark_modified()
        with file_errors(str(self.folder)):
            note_deleted(self.folder, keys)
        super().delete(keys)

    def close(self) -> None:
        """Close the shard, record what has changed, and release the lock."""
        try:
            if self._modified:
                self._modified = False
                count = self.count()
                self.settle()
                with file_errors(str(self.folder)):
                    write_spec(self.folder, replace(self.spec, count=count))
                    write_manifest(self.folder)
        finally:
            super().close()

    def _mark_modified(self) -> None:
        if not self._modified:
            with file_errors(str(self.folder)):
                (self.folder / GROWN).touch()
                (self.folder / MANIFEST).unlink(missing_ok=True)
            self._modified = True


def open_lock(folder: Path, name: str) -> Lock:
    """Take the lock of the one process that may have a version of the named gallery open.

    Raises:
        StoreLockedError: Another process holds it.
    """
    with file_errors(str(folder)):
        return Lock(folder / OPEN, f"gallery '{name}'")


def modified_by_service(folder: Path) -> bool:
    """Return whether a service has modified a version since it was published."""
    return (folder / GROWN).exists()


def publish(folder: Path, spec: GallerySpec) -> None:
    """Describe a closed version that a load has completed."""
    (folder / GROWN).unlink(missing_ok=True)
    (folder / JOURNAL).unlink(missing_ok=True)
    write_spec(folder, spec)
    write_manifest(folder)


def check_unaltered(folder: Path, name: str) -> None:
    """Check that a version's shard is as it was built, before a load writes a new manifest.

    Files outside the shard, such as the ledger, can be made again. So can a missing manifest.

    Raises:
        StoreDamagedError: A file of the shard is missing, unexpected or altered.
    """
    with file_errors(str(folder)):
        problems = Manifest.read(folder).differences(folder, under="shard/") if (folder / MANIFEST).exists() else []
    if problems:
        raise StoreDamagedError(
            f"gallery '{name}' is not as it was built: {problems[0]}: build it again with --rebuild, or restore a "
            f"backup with `ingest restore FILE --gallery {name}`"
        )


def can_resume(folder: Path, spec: GallerySpec) -> bool:
    """Return whether a folder holds an interrupted build of an identical spec."""
    try:
        return read_spec(folder) == spec
    except (StoreDamagedError, NewerFormatError):
        return False


def version_number(folder: Path) -> int:
    """Return the number of the version in a folder, 0 if the folder is not named like a version."""
    return int(folder.name[1:]) if folder.name[1:].isdecimal() else 0


def read_spec(folder: Path, place: str = "") -> GallerySpec:
    """Read the description of a version.

    Args:
        folder: The version's folder.
        place: The file that errors name; empty for the description itself.

    Raises:
        StoreDamagedError: The description can't be read.
        NewerFormatError: A newer release wrote it.
    """
    place = place or str(folder / SPEC)
    try:
        content = json.loads((folder / SPEC).read_bytes())
    except (OSError, ValueError) as error:
        raise StoreDamagedError(f"can't be read as a gallery's description: {error}", place=place) from error
    return GallerySpec.from_json(content, place)


def write_spec(folder: Path, spec: GallerySpec) -> None:
    """Write the description of a version."""
    replace_file(folder / SPEC, (json.dumps(spec.to_json(), indent=2) + "\n").encode())


@contextmanager
def file_errors(place: str) -> Iterator[None]:
    """Raise the system's errors in the block as errors of this project.

    Args:
        place: The store or folder that errors name if the system names no file.
    """
    try:
        yield
    except OSError as error:
        place = os.fsdecode(error.filename) if error.filename else place
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFullError("the disk is full: make space and run the same command again", place=place) from error
        raise StoreUnusableError(
            f"can't be used: {error.strerror}: name another store with --store", place=place
        ) from error
