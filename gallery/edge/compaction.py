"""Compaction: the next version of a live gallery, made from its stored entries while it is searched and modified.

The entries are copied in small batches, so that searches need not wait long for the GIL. What changes meanwhile stands
in the live version's journal, and is repeated on the new version before it goes live.
"""

import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gallery.edge import copier
from gallery.edge.manifest import GROWN, MANIFEST, OPEN, REPLACES
from gallery.edge.segments import size_on_disk
from gallery.edge.version import (
    SPEC,
    LiveVersion,
    modified_by_service,
    open_lock,
    read_spec,
    version_number,
    write_spec,
)
from gallery.errors import StoreDamagedError, StoreLockedError, StoreUnusableError
from gallery.files import Lock, check_space, file_errors
from gallery.findings import FINDINGS
from gallery.journal import JOURNAL, journal_size, keys_between, read_journal, write_indexed
from gallery.map import MAP
from gallery.memory import return_freed_heap
from gallery.plurals import counted

# Number of entries per batch. Reading or writing a batch holds the GIL for 1 to 5 ms.
_BATCH_COUNT = 64
# Bytes of the live version's journal that may be left to repeat when writes are stopped: some hundred keys, which take
# some tens of milliseconds.
_LAST_BYTES = 8 * 1024
# Seconds between two calls of `keep_waiting`.
_POLL_S = 0.1
# Files of a version that belong to it alone. All others, such as the ledger of its loads, are copied.
_OWN_FILES = (SPEC, MANIFEST, GROWN, JOURNAL, OPEN, REPLACES)
# Files that are copied at the end, because commands may write them during a compaction.
_LATE_FILES = (MAP, FINDINGS)


class EdgeCompaction:
    """The next version of a live gallery. Until `go_live`, the live version stays as it is."""

    def __init__(self, live: LiveVersion, make_live: Callable[[int], None], lock: Lock) -> None:
        """Begin an empty version beside the live one.

        Args:
            live: The live version, open in this process.
            make_live: Makes the version with this number the live one, atomically.
            lock: The loading lock. `close` releases it.

        Raises:
            StoreFullError: The disk has too little space for a second version and its index.
            StoreUnusableError: The version's files can't be written.
        """
        self._live = live
        self._make_live = make_live
        self._lock = lock
        self._home = live.folder.parent
        number = version_number(live.folder) + 1
        self._folder = self._home / f"v{number}"
        self._new: LiveVersion | None = None
        self._is_live = False
        with file_errors(str(self._home)):
            # the index is built beside the copy, so both take as much space as the live version
            check_space(self._home, 2 * size_on_disk(live.folder))
            part = _part(self._folder)
            part.mkdir()
            (part / REPLACES).write_text(live.folder.name, "utf-8")
            part.rename(self._folder)
            write_spec(self._folder, replace(live.spec, version=number, count=0))
            for path in live.folder.iterdir():
                if path.is_file() and path.name not in (*_OWN_FILES, *_LATE_FILES):
                    shutil.copyfile(path, self._folder / path.name)
        with live.writing:
            self._position = journal_size(live.folder)  # in the live version's journal: changes from here are repeated
        self._copier = copier.start(self._folder)

    def copy(self, advance: Callable[[int], None]) -> None:
        """Copy the entries of the live version."""
        with suppress(BrokenPipeError):  # the process has ended: `index` raises its error
            for batch in self._live.scroll(_BATCH_COUNT):
                if batch:
                    copier.send(self._copier, batch)
                    advance(len(batch))
            copier.send(self._copier, None)

    def index(self, keep_waiting: Callable[[], None]) -> None:
        """Build the search index, then repeat the changes that were made to the live version meanwhile."""
        while self._copier.poll() is None:
            keep_waiting()
            with suppress(subprocess.TimeoutExpired):
                self._copier.wait(_POLL_S)
        if self._copier.returncode:
            raise copier.error_of(self._copier) or StoreUnusableError(
                f"gallery '{self._home.name}' could not be compacted: the process that copies it ended with "
                f"{self._copier.returncode}: the live version stays as it is: try again",
                place=str(self._folder),
            )
        with file_errors(str(self._folder)):
            if modified_by_service(self._live.folder):
                (self._folder / GROWN).touch()
            write_indexed(self._folder, read_journal(self._live.folder))
        self._new = LiveVersion(self._folder, read_spec(self._folder), keeps_journal=True)
        while True:
            with self._live.writing:
                end = journal_size(self._live.folder)
            if end - self._position <= _LAST_BYTES:
                return
            self._repeat_changes(self._new, end, keep_waiting)

    def go_live(self) -> LiveVersion:
        """Make the new version the live one, and return it. Writes to the old version wait meanwhile."""
        new = self._new
        assert new, "index first"
        with self._live.writing:
            self._repeat_changes(new, journal_size(self._live.folder), lambda: None)
            expected, count = self._live.count(), new.count()
            if count != expected:
                raise StoreDamagedError(
                    f"gallery '{self._home.name}' could not be compacted: expected {counted(expected, 'image')} in the "
                    f"new version, got {count:,}: the live version stays as it is",
                    place=str(self._folder),
                )
            with file_errors(str(self._home)):
                for name in _LATE_FILES:
                    with suppress(FileNotFoundError):
                        shutil.copyfile(self._live.folder / name, self._folder / name)
                self._make_live(version_number(self._folder))
            self._is_live = self._live.is_replaced = True
        return new

    def close(self) -> None:
        """Remove the version that is not live, and release the loading lock."""
        try:
            if self._copier.poll() is None:
                self._copier.kill()
            with suppress(BrokenPipeError), self._copier:  # closes its pipes and waits for its end
                pass
            if self._new and not self._is_live:
                self._new.is_replaced = True
                self._new.close()
            with file_errors(str(self._home)):
                finish_compactions(self._home, self._folder if self._is_live else self._live.folder)
            return_freed_heap()  # that of the old version
        finally:
            self._lock.close()

    def _repeat_changes(self, new: LiveVersion, end: int, keep_waiting: Callable[[], None]) -> None:
        """Repeat the changes up to a position in the live version's journal."""
        for line in keys_between(self._live.folder, self._position, end):
            for start in range(0, len(line), _BATCH_COUNT):
                keep_waiting()
                keys = line[start : start + _BATCH_COUNT]
                entries = self._live.get(keys)
                new.upsert([entry for entry in entries if entry])
                new.delete([key for key, entry in zip(keys, entries, strict=True) if not entry])
        self._position = end


def finish_compactions(home: Path, live: Path) -> None:
    """Remove the versions that ended or killed compactions have left, except those that are open.

    Args:
        home: The gallery's folder. The caller holds its loading lock.
        live: The folder of its live version.
    """
    for part in home.glob(_part(home / "v*").name):
        shutil.rmtree(part)
    for marker in home.glob(f"v*/{REPLACES}"):
        folder = marker.parent
        with suppress(StoreLockedError):
            if folder == live:
                replaced = home / marker.read_text("utf-8")
                if version_number(replaced) and replaced.is_dir():
                    _remove(replaced)
                marker.unlink()
            else:
                _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a version unless a process has it open. If this process is killed meanwhile, a folder `_part` is left."""
    open_lock(folder, folder.parent.name).close()
    shutil.rmtree(folder.rename(_part(folder)))


def _part(folder: Path) -> Path:
    """Return the path of a version that is being created or removed, and so is not a version."""
    return folder.with_name(f"{folder.name}.part")
