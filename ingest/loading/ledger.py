"""The ledger: an SQLite file in a version's folder with the outcome of each image that was loaded.

The ledger records an image only after the store has acknowledged it, so every image with status ok is stored. If a
load dies between the acknowledgement and the record, the next load stores the image again, which changes nothing.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from gallery import Entry
from gallery.formats import check_format_number
from ingest.loading.places import UNKNOWN_SOURCE, PlacesTable
from ingest.loading.sqlite_errors import sqlite_errors
from ingest.sources import Source

FILE = "ledger.sqlite"
# Format of the file, in SQLite's `user_version`. Release 0.1.0 wrote format 0, which is the same as format 1. In both,
# a source is identified by its name and has no recorded prefix; see `PlacesTable.upgrade`. Before format 3, errors were
# not relative.
_FORMAT = 3
# Number of rows per batch of `prune` and `stored`: large enough for few requests to the store, and small enough for
# the memory.
_BATCH_COUNT = 1024
# Maximum seconds that a process waits for the write lock, which the workers of a load share. A write takes far less.
_LOCK_S = 60

_SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
    key TEXT PRIMARY KEY, source INTEGER, status TEXT, sha256 TEXT, label TEXT, reason TEXT, error REAL
) WITHOUT ROWID;
CREATE TEMP TABLE seen (key TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Status(StrEnum):
    """Outcome of an image."""

    OK = "ok"
    DUPLICATE = "duplicate"
    BAD = "bad"


class Row(NamedTuple):
    """One image in the ledger.

    Attributes:
        key: Key of the image.
        status: Its outcome.
        sha256: SHA-256 of its content, 64 hex digits; "" if the content could not be read.
        label: Name of what the image shows; "" for no label.
        reason: The reason why a bad image is bad, or why an ok image could not be read again; for a duplicate, the key
            of its original.
        error: Relative error of its reconstruction, 0 or more (see `gallery.spec.relative_error`); None if it was not
            measured.
    """

    key: str
    status: Status
    sha256: str
    label: str = ""
    reason: str = ""
    error: float | None = None

    @classmethod
    def bad(cls, key: str, reason: str, sha256: str = "", label: str = "") -> "Row":
        """Return the row of an image that could not be read or decoded."""
        return cls(key, Status.BAD, sha256, label, reason)


class Ledger:
    """The ledger of one version of a gallery. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        """Open the ledger in a version's folder, or create one.

        Opening does not upgrade a file of an older release, because the version's manifest has the file's checksum. The
        first write upgrades it.

        Raises:
            NewerFormatError: A newer release wrote the file.
            StoreDamagedError: The file is not a ledger.
            StoreUnusableError: The file can't be read or written.
        """
        self.folder = folder
        self._path = folder / FILE
        with self._errors():
            self._rows = sqlite3.connect(self._path, _LOCK_S, check_same_thread=False)
            try:
                self._format = self._read_format()
                check_format_number(self._format, _FORMAT, str(self._path))
                self._rows.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _SCHEMA)
                self._places = PlacesTable(self._rows)
            except BaseException:
                self._rows.close()
                raise

    def look_up(self, keys: Sequence[str]) -> dict[str, Row]:
        """Return the rows with these keys, by key. Keys without a row are left out."""
        return {row.key: row for row in self._select("key", keys)}

    def originals(self, sha256s: Sequence[str]) -> dict[str, str]:
        """Return a dictionary from each SHA-256 to the key of the image in the gallery that has this content.

        If several images have it, the dictionary has the first key in sorted order. If no image has it, the SHA-256 is
        left out.
        """
        if not sha256s:
            return {}
        with self._errors():
            self._rows.execute("CREATE INDEX IF NOT EXISTS kept ON items (sha256) WHERE status = 'ok'")
        rows = self._select("status = 'ok' AND sha256", sha256s)
        return {row.sha256: row.key for row in sorted(rows, key=lambda row: row.key, reverse=True)}

    def record(self, rows: Iterable[Row], source: Source) -> None:
        """Write rows of images of one source in one transaction. They replace rows with the same keys."""
        with self._transaction():
            number = self._places.number(source)
            self._write((*row, number) for row in rows)

    def see(self, keys: Iterable[str]) -> None:
        """Mark keys that the source still has, so that `prune` keeps their images. `close` discards the marks."""
        with self._errors(), self._rows:
            self._rows.executemany("INSERT OR IGNORE INTO seen VALUES (?)", ((key,) for key in keys))

    def count_prunable(self, source: Source) -> tuple[int, int]:
        """Count a source's images in the gallery: return how many `prune` would remove, and how many there are."""
        with self._errors():
            prunable, total = self._rows.execute(
                f"SELECT COUNT(*) FILTER (WHERE {_PRUNABLE}), COUNT(*) FROM items "
                "WHERE status = 'ok' AND source = (SELECT id FROM sources WHERE place = ?)",
                (source.place,),
            ).fetchone()
        return prunable, total

    def prune(self, source: Source, delete: Callable[[Sequence[str]], None]) -> int:
        """Remove a source's images whose keys were not passed to `see`, or whose files are no longer images.

        Files that are no longer images stay in the ledger as bad images.

        Args:
            source: The source.
            delete: Removes images from the gallery, given their keys. Called before the ledger changes.

        Returns:
            The number of images that were removed from the gallery.
        """
        pruned = 0
        while rows := self._prunable(source):
            keys = [row.key for row in rows]
            delete(keys)
            with self._transaction():
                self._rows.executemany(
                    "UPDATE items SET status = 'bad', error = NULL WHERE key = ? AND key IN (SELECT key FROM seen)",
                    ((key,) for key in keys),
                )
                self._rows.executemany(
                    "DELETE FROM items WHERE key = ? AND key NOT IN (SELECT key FROM seen)", ((key,) for key in keys)
                )
            pruned += sum(row.status is Status.OK for row in rows)
        return pruned

    def match(self, entries: Iterable[Sequence[Entry]]) -> None:
        """Reconcile the ledger with a gallery that another machine or a service has modified.

        The source of entries that are new to the ledger is unknown until `adopt` records it.

        Args:
            entries: All entries of the gallery, in batches.
        """
        with self._transaction():
            self._rows.execute("CREATE TEMP TABLE stored (key TEXT PRIMARY KEY) WITHOUT ROWID")
            for batch in entries:
                self._rows.executemany("INSERT INTO stored VALUES (?)", ((entry.key,) for entry in batch))
                self._rows.executemany(
                    "INSERT INTO items (key, source, status, sha256, label, reason) VALUES (?1, ?2, 'ok', ?3, ?4, '') "
                    "ON CONFLICT (key) DO UPDATE SET status = 'ok', sha256 = ?3, label = ?4, reason = '' "
                    "WHERE status != 'ok' OR sha256 != ?3 OR label != ?4",
                    ((entry.key, UNKNOWN_SOURCE, entry.sha256, entry.label) for entry in batch),
                )
            self._rows.execute("DELETE FROM items WHERE status = 'ok' AND key NOT IN (SELECT key FROM stored)")
            self._rows.execute("DROP TABLE stored")

    def has_unknown_source(self) -> bool:
        """Return whether the source of any image is unknown."""
        with self._errors():
            return bool(
                self._rows.execute("SELECT 1 FROM items WHERE source = ? LIMIT 1", (UNKNOWN_SOURCE,)).fetchone()
            )

    def adopt(self, keys: Sequence[str], source: Source) -> None:
        """Record the source of these keys, if it is unknown so far."""
        with self._transaction():
            number = self._places.number(source)
            self._rows.executemany(
                "UPDATE items SET source = ? WHERE key = ? AND source = ?",
                ((number, key, UNKNOWN_SOURCE) for key in keys),
            )

    def prefix(self, place: str) -> str | None:
        """Return the prefix of the keys of the source at a place; None if no source was ever loaded from there."""
        with self._errors():
            return self._places.prefixes().get(place)

    def claim(self, place: str, name: str, prefix: str, previous_place: str = "") -> None:
        """Record the prefix of a source's keys.

        Args:
            place: The source's place.
            name: The source's name.
            prefix: The prefix of the source's keys.
            previous_place: The source's place before it was moved; "" for a new source.
        """
        with self._transaction():
            if previous_place:
                self._places.move(previous_place, place)
            self._places.put([(name, place, prefix)])

    def claimants(self, prefix: str) -> dict[str, str]:
        """Return the sources that already use a prefix, so that new keys may collide with theirs.

        Args:
            prefix: The prefix of new keys.

        Returns:
            A dictionary from each such source's place to its prefix. The place is "" for images whose source is
            unknown.
        """
        with self._errors():
            return self._places.overlapping(prefix)

    def match_keys(self, written: Mapping[str, bool]) -> None:
        """Reconcile the ledger with a gallery that a service has modified, given the service's journal.

        Args:
            written: The journal's keys, each with True if it was last added, False if it was last deleted.
        """
        with self._transaction():
            self._rows.executemany(
                "INSERT INTO items (key, source, status, sha256, label, reason) VALUES (?, ?, 'ok', '', '', '') "
                "ON CONFLICT (key) DO UPDATE SET status = 'ok' WHERE status != 'ok'",
                ((key, UNKNOWN_SOURCE) for key, is_added in written.items() if is_added),
            )
            self._rows.executemany(
                "DELETE FROM items WHERE key = ? AND status = 'ok'",
                ((key,) for key, is_added in written.items() if not is_added),
            )

    def stored(self, source: Source, *, own: bool) -> Iterator[list[tuple[Row, str]]]:
        """Yield the rows of images in the gallery, each with its source's place, in batches.

        Args:
            source: A source.
            own: True for the images of this source, False for those of all other sources.
        """
        with self._errors():
            selected = self._rows.execute(
                f"SELECT {_COLUMNS}, (SELECT place FROM sources WHERE id = source) FROM items WHERE status = 'ok' "
                "AND (source = COALESCE((SELECT id FROM sources WHERE place = ?), -1)) = ? ORDER BY key",
                (source.place, own),
            )
            while batch := selected.fetchmany(_BATCH_COUNT):
                yield [(_row(values), place or "") for *values, place in batch]

    def take_over(self, rows: Iterable[tuple[Row, str]]) -> None:
        """Add rows copied from another version's ledger, each with the place of its source; see `inherit_sources`."""
        with self._transaction():
            numbers = dict(self._rows.execute("SELECT place, id FROM sources"))
            self._write((*row, numbers.get(place, UNKNOWN_SOURCE)) for row, place in rows)

    def inherit_sources(self, other: "Ledger") -> None:
        """Copy the sources and their prefixes from another version's ledger, so that images keep their keys."""
        with other._transaction():  # first upgrades a file of an older release, which lacks the prefixes
            sources = other._places.all()
        with self._transaction():
            self._places.put(sources)

    def copy_to(self, folder: Path) -> None:
        """Write the whole ledger into another version's folder."""
        with self._errors(), closing(sqlite3.connect(folder / FILE)) as target:
            self._rows.backup(target)

    def has_orphans(self) -> bool:
        """Return whether the original of any duplicate is no longer in the gallery."""
        with self._errors():
            return bool(
                self._rows.execute(
                    "SELECT 1 FROM items AS d WHERE status = 'duplicate' AND NOT EXISTS "
                    "(SELECT 1 FROM items AS o WHERE o.key = d.reason AND o.status = 'ok' AND o.sha256 = d.sha256)"
                ).fetchone()
            )

    def counts(self) -> Counter[str]:
        """Count the rows by status."""
        with self._errors():
            return Counter(dict(self._rows.execute("SELECT status, COUNT(*) FROM items GROUP BY status")))

    def bad(self) -> Iterator[tuple[str, Row]]:
        """Yield the row of each image that is bad or could not be read again, with its source's name, sorted by key."""
        with self._errors():
            for *values, source in self._rows.execute(
                f"SELECT {_COLUMNS}, (SELECT name FROM sources WHERE id = source) FROM items "
                "WHERE status = 'bad' OR (status = 'ok' AND reason != '') ORDER BY key"
            ):
                yield source, _row(values)

    def errors(self) -> list[float]:
        """Return the relative errors of reconstructions that have been measured."""
        with self._errors():
            if self._read_format() < _FORMAT:
                return []
            return [value for (value,) in self._rows.execute("SELECT error FROM items WHERE error IS NOT NULL")]

    def sample(self, count: int) -> dict[str, list[Row]]:
        """Return the rows of `count` random images in the gallery.

        Returns:
            A dictionary from each source's place to its rows. The place is "" for images whose source is unknown.
        """
        with self._errors():
            selected = self._rows.execute(
                f"SELECT {_COLUMNS}, (SELECT place FROM sources WHERE id = source) FROM items "
                "WHERE status = 'ok' ORDER BY random() LIMIT ?",
                (count,),
            )
            rows: dict[str, list[Row]] = {}
            for *values, place in selected:
                rows.setdefault(place, []).append(_row(values))
            return rows

    def close(self) -> None:
        """Close the file. SQLite then merges its write-ahead log into the file and removes the log."""
        self._rows.close()

    def _write(self, rows: Iterable[tuple[object, ...]]) -> None:
        self._rows.executemany(f"INSERT OR REPLACE INTO items ({_COLUMNS}, source) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def _prunable(self, source: Source) -> list[Row]:
        with self._errors():
            selected = self._rows.execute(
                f"SELECT {_COLUMNS} FROM items WHERE source = (SELECT id FROM sources WHERE place = ?) "
                f"AND {_PRUNABLE} LIMIT ?",
                (source.place, _BATCH_COUNT),
            )
            return [_row(values) for values in selected]

    def _select(self, condition: str, values: Sequence[str]) -> list[Row]:
        marks = ", ".join("?" * len(values))
        with self._errors():
            selected = self._rows.execute(f"SELECT {_COLUMNS} FROM items WHERE {condition} IN ({marks})", values)
            return [_row(row) for row in selected]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors(), self._rows:
            if self._format < _FORMAT:
                self._rows.execute("BEGIN IMMEDIATE")
                self._places = PlacesTable(self._rows)  # as it is now: another worker may have upgraded the file
                if self._read_format() < _FORMAT:
                    self._places.upgrade()
                    self._rows.execute("UPDATE items SET error = NULL WHERE error IS NOT NULL")  # they are not relative
                    self._rows.execute(f"PRAGMA user_version = {_FORMAT}")
                self._format = _FORMAT
            yield

    def _read_format(self) -> int:
        number: int = self._rows.execute("PRAGMA user_version").fetchone()[0]
        return number

    def _errors(self) -> AbstractContextManager[None]:
        return sqlite_errors(self._path)


_COLUMNS = ", ".join(Row._fields)
# Condition for the rows of a source that `prune` removes from the gallery.
_PRUNABLE = "(key NOT IN (SELECT key FROM seen) OR (status = 'ok' AND reason != ''))"


def _row(values: Sequence[object]) -> Row:
    row = Row(*values)  # type: ignore[arg-type]
    return row._replace(status=Status(row.status))
