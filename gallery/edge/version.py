"""One version of a gallery: a folder with an Edge shard, the gallery's description, and files that track changes.

v2/gallery.json     the description, see `GallerySpec`
v2/manifest.json    the files with their sums; missing while the version is being built or modified
v2/GROWN            exists if the version has been modified since it was published; see `manifest.GROWN`
v2/ADDED            keys that a service has added or deleted since the publication; see `gallery.journal`
v2/map.json.gz      the map, if one has been made; see `gallery.map`
v2/findings.json    results of commands that have assessed the version; see `gallery.findings`
v2/REPLACES         exists while a compaction makes the version; see `manifest.REPLACES`
v2/OPEN             lock of the one process that may have the version open
v2/shard/           Qdrant Edge's own files

A process that modifies a live version marks it as modified before the first change. When it closes the version, it
records the new number of entries and the new manifest. If it dies before that, the next process that opens the version
records them.
"""

import json
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gallery.edge.manifest import GROWN, MANIFEST, OPEN, Manifest, write_manifest
from gallery.edge.shard import EdgeGallery
from gallery.errors import NewerFormatError, StoreDamagedError
from gallery.files import Lock, file_errors, replace_file
from gallery.findings import discard_findings
from gallery.formats import parse_object
from gallery.journal import JOURNAL, changes_since_indexing, note_added, note_deleted
from gallery.memory import Parts
from gallery.spec import GallerySpec
from gallery.types import Changes, Entry

SPEC = "gallery.json"
"""Name of the file with a version's description."""
_VERSION_NAME = re.compile(r"v([1-9][0-9]{0,17})")


class Version(EdgeGallery):
    """An open shard, and the lock that keeps other processes from opening it."""

    def __init__(self, folder: Path, spec: GallerySpec, parts: Parts | None = None) -> None:
        """Take the lock and open the shard, or create one.

        Args:
            folder: The version's folder.
            spec: Its description.
            parts: Sizes of the parts that a load builds the version in; None if no load opens it.

        Raises:
            StoreLockedError: Another process has the version open.
            StoreError: The shard can't be opened.
        """
        self.folder = folder
        self._open_lock = open_lock(folder, spec.name)
        try:
            self._check_files()
            super().__init__(folder / "shard", spec, parts=parts)
        except BaseException:
            self._open_lock.close()
            raise

    def publish(self, spec: GallerySpec) -> None:
        """Close the version, write its description and manifest, and remove all traces of earlier modifications."""
        with file_errors(str(self.folder)):
            self.settle()
            write_spec(self.folder, spec)
            write_manifest(self.folder)
            (self.folder / GROWN).unlink(missing_ok=True)
            (self.folder / JOURNAL).unlink(missing_ok=True)
        self._open_lock.close()

    def close(self) -> None:
        """Close the shard and release the lock."""
        super().close()
        self._open_lock.close()

    def _check_files(self) -> None:
        """Do nothing, because any file may be missing in a version that is being built."""


class LiveVersion(Version):
    """A live version, which its user may modify.

    Attributes:
        is_modified: Whether its entries have been modified since it was opened.
        writing: Held during each modification. A compaction holds it while it replaces the version.
        is_replaced: Set by a compaction that has replaced the version. Then `close` records nothing, which would take
            long, because the version is about to be removed.
    """

    def __init__(
        self, folder: Path, spec: GallerySpec, parts: Parts | None = None, *, keeps_journal: bool = False
    ) -> None:
        """Take the lock and open the shard.

        Args:
            folder: The version's folder.
            spec: Its description.
            parts: Sizes of the parts that a load extends the version in; None if no load opens it.
            keeps_journal: Record added and deleted keys in the journal. True for services. Loads use their ledger
                instead.

        Raises:
            StoreLockedError: Another process has the version open.
            StoreDamagedError: Files of the shard are missing or have another size than recorded.
            StoreError: The shard can't be opened.
        """
        self._keeps_journal = keeps_journal
        self.is_modified = False
        self.is_replaced = False
        self.writing = threading.Lock()
        self._must_record = False
        super().__init__(folder, spec, parts)
        self._must_record = has_unrecorded_changes(folder)
        self._changes = changes_since_indexing(folder) if keeps_journal else Changes()

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Mark the version as modified, and store entries."""
        if entries:
            with self.writing:
                self._begin_modification()
                discard_findings(self.folder)
                self._note(note_added, [entry.key for entry in entries])
                super().upsert(entries)
                self._changes = Changes(self._changes.added + len(entries), self._changes.deleted)

    def delete(self, keys: Sequence[str]) -> None:
        """Mark the version as modified, and remove the entries with these keys."""
        if keys:
            with self.writing:
                self._begin_modification()
                discard_findings(self.folder)
                self._note(note_deleted, keys)
                super().delete(keys)
                self._changes = Changes(self._changes.added, self._changes.deleted + len(keys))

    def changes(self) -> Changes:
        """Return how many entries services have changed since the search index was built."""
        return self._changes

    def index(self) -> None:
        """Mark the version as modified, and build the search index."""
        self._begin_replacing_files()
        super().index()

    def mark(self) -> None:
        """Mark the version as modified before the first change to any of its files."""
        if not self._must_record:
            with file_errors(str(self.folder)):
                try:
                    (self.folder / MANIFEST).replace(self.folder / GROWN)
                except FileNotFoundError:
                    (self.folder / GROWN).touch()
            self._must_record = True

    def publish(self, spec: GallerySpec) -> None:
        """Close the version, write its description and manifest, and remove all traces of earlier modifications."""
        super().publish(spec)
        self._must_record = False

    def close(self) -> None:
        """Close the shard and release the lock. If the version was modified, record its count and manifest."""
        try:
            if self._must_record and not self._closed and not self.is_replaced:
                self._must_record = False
                count = self.count()
                self.settle()
                with file_errors(str(self.folder)):
                    write_spec(self.folder, replace(read_spec(self.folder), count=count))
                    write_manifest(self.folder)
        finally:
            super().close()

    def _sort(self) -> None:
        self._begin_replacing_files()
        super()._sort()

    def _begin_replacing_files(self) -> None:
        self._begin_modification()
        with file_errors(str(self.folder)):
            # empty GROWN, which contains the old manifest: the files that this manifest lists are about to be replaced
            (self.folder / GROWN).write_bytes(b"")

    def _note(self, note: Callable[[Path, Sequence[str]], None], keys: Sequence[str]) -> None:
        if self._keeps_journal:
            with file_errors(str(self.folder)):
                note(self.folder, keys)

    def _begin_modification(self) -> None:
        self.mark()
        self.is_modified = True

    def _check_files(self) -> None:
        check_not_lost(self.folder)


def check_not_lost(folder: Path) -> None:
    """Check that no file of a live version's shard is missing. Edge itself may silently create an empty shard instead.

    Raises:
        StoreDamagedError: A file is missing, unexpected or of another size.
    """
    problems = lost_files(folder)
    if problems:
        name = folder.parent.name
        raise StoreDamagedError(
            f"gallery '{name}' v{version_number(folder)} can't be opened: {problems[0]}: {how_to_repair(name)}"
        )


def lost_files(folder: Path) -> list[str]:
    """Compare the names and sizes of a shard's files with those last recorded. This takes milliseconds.

    If a process died while it modified the version, the recorded sizes are outdated, so only names are compared. If it
    died while it built the index, the names are outdated too, so this only checks that the shard has a segment.

    Returns:
        One line for each file that is missing, unexpected or of another size.
    """
    with file_errors(str(folder)):
        if not (folder / "shard" / "edge_config.json").is_file():
            return ["shard/edge_config.json is missing"]
        if (folder / MANIFEST).exists():
            return Manifest.read(folder).differences(folder, "shard/", with_content=False)
        return _missing_after_modification(folder)


def _missing_after_modification(folder: Path) -> list[str]:
    with suppress(ValueError, FileNotFoundError):
        before = Manifest.from_bytes((folder / GROWN).read_bytes(), str(folder / GROWN))
        shard = {name: file for name, file in before.files.items() if name.startswith("shard/")}
        return Manifest(shard).missing(folder)
    has_segment = any((folder / "shard" / "segments").glob("*/segment.json"))
    return [] if has_segment else ["shard/segments is missing or empty"]


def how_to_repair(name: str) -> str:
    """Return advice for a gallery whose files are damaged."""
    return (
        f"restore a backup with `ingest restore FILE --gallery {name}`, or build it again with `ingest load … "
        f"--gallery {name} --rebuild`, which leaves out images that a service has added"
    )


def open_lock(folder: Path, name: str) -> Lock:
    """Take the lock of the one process that may have a version of the named gallery open.

    Raises:
        StoreLockedError: Another process holds the lock.
    """
    with file_errors(str(folder)):
        return Lock(folder / OPEN, f"gallery '{name}'")


def modified_by_service(folder: Path) -> bool:
    """Return whether a version has been modified since it was published."""
    return (folder / GROWN).exists()


def has_unrecorded_changes(folder: Path) -> bool:
    """Return whether a process is modifying a version, or died while it did."""
    return (folder / GROWN).exists() and not (folder / MANIFEST).exists()


def is_complete(folder: Path) -> bool:
    """Return whether a version has ever been published."""
    return (folder / MANIFEST).exists() or (folder / GROWN).exists()


def record_changes(folder: Path) -> None:
    """Record the count and the manifest of a live version if a process died while it modified the version.

    Raises:
        StoreLockedError: The process that modifies the version is still running.
        StoreError: The version can't be opened.
    """
    with file_errors(str(folder)):
        if has_unrecorded_changes(folder):
            LiveVersion(folder, read_spec(folder)).close()


def check_unaltered(folder: Path, name: str) -> None:
    """Check that a version's shard is as it was built. Otherwise, a load would hide the damage with a new manifest.

    Files outside the shard, such as the ledger, are not checked, because a load can make them again. A version without
    a manifest can't be checked.

    Raises:
        StoreDamagedError: A file of the shard is missing, unexpected or altered.
    """
    with file_errors(str(folder)):
        problems = Manifest.read(folder).differences(folder, under="shard/") if (folder / MANIFEST).exists() else []
    if problems:
        raise StoreDamagedError(f"gallery '{name}' is not as it was built: {problems[0]}: {how_to_repair(name)}")


def can_resume(folder: Path, spec: GallerySpec) -> bool:
    """Return whether a folder holds an interrupted build of an identical spec."""
    try:
        return read_spec(folder) == spec
    except (StoreDamagedError, NewerFormatError):
        return False


def version_number(folder: Path) -> int:
    """Return the number of the version in a folder, 0 if the folder is not named like a version."""
    match = _VERSION_NAME.fullmatch(folder.name)
    return int(match[1]) if match else 0


def read_spec(folder: Path) -> GallerySpec:
    """Read the description of a version. Its name and number are those of the folders, which users may have renamed.

    Raises:
        StoreDamagedError: The description can't be read.
        NewerFormatError: A newer release wrote the description.
    """
    place = str(folder / SPEC)
    try:
        content = parse_object((folder / SPEC).read_bytes())
    except (OSError, ValueError) as error:
        raise StoreDamagedError(f"can't be read as a gallery's description: {error}", place=place) from error
    return replace(GallerySpec.from_json(content, place), name=folder.parent.name, version=version_number(folder))


def spec_bytes(spec: GallerySpec) -> bytes:
    """Return the content of the file that describes a version."""
    return (json.dumps(spec.to_json(), indent=2) + "\n").encode()


def write_spec(folder: Path, spec: GallerySpec) -> None:
    """Write the description of a version."""
    replace_file(folder / SPEC, spec_bytes(spec))
