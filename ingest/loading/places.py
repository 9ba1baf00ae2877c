"""The ledger's table of sources. A source has a name, a place (see `Source.place`) and the prefix of its keys."""

import sqlite3
from collections.abc import Iterable

from ingest.sources import Source

UNKNOWN_SOURCE = 0
"""Id of the placeholder for images whose source is unknown. The ids of known sources start at 1."""

_COLUMNS = "(id INTEGER PRIMARY KEY, name TEXT, place TEXT UNIQUE, prefix TEXT)"


class PlacesTable:
    """The table `sources`. The caller opens the transaction and translates SQLite's errors."""

    def __init__(self, rows: sqlite3.Connection) -> None:
        """Create the table if it is missing.

        An existing table of format 0 or 1 has one row for each name of a source. Newer tables have one row for
        each place.
        """
        self._rows = rows
        rows.execute(f"CREATE TABLE IF NOT EXISTS sources {_COLUMNS}")
        columns = rows.execute("SELECT name FROM pragma_table_info('sources')").fetchall()
        self._has_prefixes = ("prefix",) in columns

    def number(self, source: Source) -> int:
        """Add a source if it is new, record its current name, and return its id."""
        self._rows.execute(
            "INSERT INTO sources (name, place) VALUES (?1, ?2) "
            "ON CONFLICT (place) DO UPDATE SET name = ?1 WHERE name IS NOT ?1",
            (source.name, source.place),
        )
        number: int = self._rows.execute("SELECT id FROM sources WHERE place = ?", (source.place,)).fetchone()[0]
        return number

    def prefixes(self) -> dict[str, str]:
        """Return a dictionary from each source's place to the prefix of its keys.

        Sources whose prefix is unknown are left out.
        """
        if self._has_prefixes:
            return dict(self._rows.execute("SELECT place, prefix FROM sources WHERE prefix IS NOT NULL"))
        places = self._rows.execute("SELECT place, MIN(id) FROM sources GROUP BY place").fetchall()
        return {place: prefix for place, number in places if (prefix := self._first_prefix(number))}

    def overlapping(self, prefix: str) -> dict[str, str]:
        """Return the sources that already use a prefix; see `Ledger.claimants`."""
        overlapping = {
            place: other
            for place, other in self.prefixes().items()
            if f"{prefix}/".startswith(f"{other}/") or f"{other}/".startswith(f"{prefix}/")
        }
        if self._rows.execute(
            # keys under prefix/ sort below prefix0, because "0" follows "/" in ASCII
            "SELECT 1 FROM items WHERE key > ?1 || '/' AND key < ?1 || '0' AND source = ?2 LIMIT 1",
            (prefix, UNKNOWN_SOURCE),
        ).fetchone():
            overlapping[""] = prefix
        return overlapping

    def move(self, place: str, new_place: str) -> None:
        """Record the new place of a source."""
        self._rows.execute("UPDATE sources SET place = ? WHERE place = ?", (new_place, place))

    def all(self) -> list[tuple[str, str, str | None]]:
        """Return the name, the place and the prefix of each known source."""
        return self._rows.execute("SELECT name, place, prefix FROM sources WHERE place != ''").fetchall()

    def put(self, sources: Iterable[tuple[str, str, str | None]]) -> None:
        """Record the name, the place and the prefix of sources."""
        self._rows.executemany(
            "INSERT INTO sources (name, place, prefix) VALUES (?1, ?2, ?3) "
            "ON CONFLICT (place) DO UPDATE SET name = ?1, prefix = ?3",
            sources,
        )

    def upgrade(self) -> None:
        """Upgrade the table to the newest format. Sources at the same place become one source."""
        if not self._has_prefixes:
            prefixes = self.prefixes()
            self._rows.execute(
                "UPDATE items SET source = (SELECT MIN(id) FROM sources WHERE place = "
                "(SELECT place FROM sources WHERE id = items.source)) "
                "WHERE source NOT IN (SELECT MIN(id) FROM sources GROUP BY place)"
            )
            self._rows.execute("ALTER TABLE sources RENAME TO named_sources")
            self._rows.execute(f"CREATE TABLE sources {_COLUMNS}")
            self._rows.execute(
                "INSERT INTO sources (id, name, place) SELECT MIN(id), name, place FROM named_sources GROUP BY place"
            )
            self._rows.execute("DROP TABLE named_sources")
            self._rows.executemany(
                "UPDATE sources SET prefix = ? WHERE place = ?", ((prefix, place) for place, prefix in prefixes.items())
            )
            self._has_prefixes = True
        self._rows.execute("INSERT OR IGNORE INTO sources VALUES (?, '', '', NULL)", (UNKNOWN_SOURCE,))

    def _first_prefix(self, number: int) -> str:
        """Return the prefix of a source, taken from the key of any of its images; "" if it has no image."""
        row = self._rows.execute("SELECT key FROM items WHERE source = ? LIMIT 1", (number,)).fetchone()
        return row[0].partition("/")[0] if row and number != UNKNOWN_SOURCE else ""
