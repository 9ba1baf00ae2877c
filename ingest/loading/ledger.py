"""What became of each image of a gallery's sources, in an SQLite file beside the gallery's version.

A row is written only after the store has acknowledged the image, so whatever the ledger calls ok is there. A load that
died between the two stores that image again, which changes nothing.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from gallery import Entry
from gallery.errors import StoreDamagedError, StoreFullError, StoreUnusableError

FILE = "ledger.sqlite"
_PRUNED_AT_ONCE = 1024
# Several processes may write: each waits so long for its turn.
_TURN_S = 60

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sources (id INTEGER PRIMARY KEY, name TEXT UNIQUE, place TEXT);
CREATE TABLE IF NOT EXISTS items (
    key TEXT PRIMARY KEY, source INTEGER, status TEXT, sha256 TEXT, label TEXT, reason TEXT, error REAL
) WITHOUT ROWID;
CREATE TEMP TABLE seen (key TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Status(StrEnum):
    """What became of an image."""

    OK = "ok"
    DUPLICATE = "duplicate"
    BAD = "bad"


class Row(NamedTuple):
    """One image in the ledger.

    Attributes:
        key: Its name.
        status: What became of it.
        sha256: Hash of its content; empty where that could not be read.
        label: What it is said to show.
        reason: Why it is bad, or the key of which it is a duplicate; of an ok one, why it could not be read again.
        error: Its reconstruction's mean squared error, where that was sampled.
    """

    key: str
    status: Status
    sha256: str
    label: str = ""
    reason: str = ""
    error: float | None = None


class Ledger:
    """The ledger of one version of a gallery. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        """Open the ledger in a version's folder, or begin one.

        Raises:
            StoreDamagedError: The file is no ledger.
        """
        self._path = folder / FILE
        with self._errors():
            self._rows = sqlite3.connect(self._path, _TURN_S, check_same_thread=False)
            self._rows.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _SCHEMA)
        self._source = 0

    def begin(self, source: str, place: str) -> None:
        """Say which source the rows that follow are of, and what `open_source` finds it by."""
        with self._errors(), self._rows:
            self._rows.execute(
                "INSERT INTO sources (name, place) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET place = ?2",
                (source, place),
            )
            self._source = self._rows.execute("SELECT id FROM sources WHERE name = ?", (source,)).fetchone()[0]

    def look_up(self, keys: Sequence[str]) -> dict[str, Row]:
        """Return the rows of those keys that have one."""
        return {row.key: row for row in self._select("key", keys)}

    def kept(self, sha256s: Sequence[str]) -> dict[str, str]:
        """Return, by content, the key under which it is in the gallery."""
        if not sha256s:
            return {}
        with self._errors():
            self._rows.execute("CREATE INDEX IF NOT EXISTS kept ON items (sha256) WHERE status = 'ok'")
        rows = self._select("status = 'ok' AND sha256", sha256s)
        return {row.sha256: row.key for row in sorted(rows, key=lambda row: row.key, reverse=True)}

    def record(self, rows: Iterable[Row]) -> None:
        """Write rows, replacing those of the same keys; all or none."""
        with self._errors(), self._rows:
            self._rows.executemany(
                "INSERT OR REPLACE INTO items (key, status, sha256, label, reason, error, source) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((*row, self._source) for row in rows),
            )

    def forget(self, keys: Sequence[str]) -> None:
        """Remove the rows of these keys."""
        with self._errors(), self._rows:
            self._rows.executemany("DELETE FROM items WHERE key = ?", ((key,) for key in keys))

    def see(self, keys: Iterable[str]) -> None:
        """Note that the source still has these keys. The notes go with the connection."""
        with self._errors(), self._rows:
            self._rows.executemany("INSERT OR IGNORE INTO seen VALUES (?)", ((key,) for key in keys))

    def prune(self, delete: Callable[[Sequence[str]], None]) -> int:
        """Remove the rows of the source whose keys have not been seen.

        Args:
            delete: Removes keys from the gallery, which comes first.

        Returns:
            How many of them were in the gallery.
        """
        pruned = 0
        while gone := self._unseen():
            keys = [row.key for row in gone]
            delete(keys)
            self.forget(keys)
            pruned += sum(row.status is Status.OK for row in gone)
        return pruned

    def match(self, entries: Iterable[Sequence[Entry]]) -> None:
        """Make the ledger say what a gallery holds that others have written to: another machine, or a service.

        Args:
            entries: All that it holds. What the ledger did not know counts as of the source that has begun, or where
                none has, of none that is known.
        """
        with self._errors(), self._rows:
            self._rows.execute("INSERT OR IGNORE INTO sources (id, name, place) VALUES (0, '', '')")
            self._rows.execute("CREATE TEMP TABLE held (key TEXT PRIMARY KEY) WITHOUT ROWID")
            for batch in entries:
                self._rows.executemany("INSERT INTO held VALUES (?)", ((entry.key,) for entry in batch))
                self._rows.executemany(
                    "INSERT INTO items (key, source, status, sha256, label, reason) VALUES (?1, ?2, 'ok', ?3, ?4, '') "
                    "ON CONFLICT (key) DO UPDATE SET status = 'ok', sha256 = ?3, label = ?4, reason = '' "
                    "WHERE status != 'ok' OR sha256 != ?3 OR label != ?4",
                    ((entry.key, self._source, entry.sha256, entry.label) for entry in batch),
                )
            self._rows.execute("DELETE FROM items WHERE status = 'ok' AND key NOT IN (SELECT key FROM held)")
            self._rows.execute("DROP TABLE held")

    def copy_to(self, folder: Path) -> None:
        """Write the whole ledger into another version's folder."""
        with self._errors(), closing(sqlite3.connect(folder / FILE)) as other:
            self._rows.backup(other)

    def orphaned(self) -> bool:
        """Tell whether a duplicate's original is no longer in the gallery."""
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
        """Yield each image that is bad, or could not be read again, with its source's name, by key."""
        with self._errors():
            for *values, source in self._rows.execute(
                f"SELECT {_COLUMNS}, (SELECT name FROM sources WHERE id = source) FROM items "
                "WHERE status = 'bad' OR (status = 'ok' AND reason != '') ORDER BY key"
            ):
                yield source, _row(values)

    def errors(self) -> list[float]:
        """Return the reconstruction errors that were sampled."""
        with self._errors():
            return [value for (value,) in self._rows.execute("SELECT error FROM items WHERE error IS NOT NULL")]

    def sample(self, count: int) -> dict[str, list[Row]]:
        """Return `count` random rows of images in the gallery, by the place of their source."""
        with self._errors():
            found = self._rows.execute(
                f"SELECT {_COLUMNS}, (SELECT place FROM sources WHERE id = source) FROM items "
                "WHERE status = 'ok' ORDER BY random() LIMIT ?",
                (count,),
            )
            rows: dict[str, list[Row]] = {}
            for *values, place in found:
                rows.setdefault(place, []).append(_row(values))
            return rows

    def close(self) -> None:
        """Close the file, so that it is whole by itself."""
        self._rows.close()

    def _unseen(self) -> list[Row]:
        with self._errors():
            found = self._rows.execute(
                f"SELECT {_COLUMNS} FROM items WHERE source = ? AND key NOT IN (SELECT key FROM seen) LIMIT ?",
                (self._source, _PRUNED_AT_ONCE),
            )
            return [_row(values) for values in found]

    def _select(self, condition: str, values: Sequence[str]) -> list[Row]:
        marks = ", ".join("?" * len(values))
        with self._errors():
            found = self._rows.execute(f"SELECT {_COLUMNS} FROM items WHERE {condition} IN ({marks})", values)
            return [_row(row) for row in found]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise StoreFullError(f"{self._path}: the disk is full: make space and load again") from error
            raise StoreUnusableError(f"{self._path} can't be used: {error}: name another store with --store") from error
        except sqlite3.DatabaseError as error:
            raise StoreDamagedError(f"{self._path} is no ledger: {error}: build it again with --rebuild") from error


_COLUMNS = ", ".join(Row._fields)


def _row(values: Sequence[object]) -> Row:
    row = Row(*values)  # type: ignore[arg-type]
    return row._replace(status=Status(row.status))
