"""A staging file for images that have changed since they were stored.

The load replaces the stored images only after it has read the whole source, and only if few of the images are bad.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingest.loading.ledger import Row, Status
from ingest.loading.sqlite_errors import sqlite_errors

FILE = "staged.sqlite"
# Images per batch, the same number as in `ingest.loading.batches`.
_BATCH_COUNT = 1024
# Maximum seconds that a process waits for the write lock, which the workers of a load share. A write takes far less.
_LOCK_S = 60


class Staging:
    """Encoded images in a file in the version's folder, kept until the load ends. Safe to use from several threads.

    Several processes may have the file open. The main process uses a `with` block, which empties the file at its start
    and removes it at its end. Worker processes use no `with` block, and call `close` when they have added their images.
    """

    def __init__(self, folder: Path) -> None:
        """Open the file in a version's folder, or create it.

        Raises:
            StoreUnusableError: The file can't be read or written.
            StoreFullError: The disk is full.
        """
        self._path = folder / FILE
        with sqlite_errors(self._path):
            self._rows = sqlite3.connect(self._path, _LOCK_S, check_same_thread=False)
            self._rows.executescript(
                "PRAGMA synchronous = OFF;"
                "CREATE TABLE IF NOT EXISTS staged "
                "(key TEXT PRIMARY KEY, sha256 TEXT, label TEXT, error REAL, code BLOB, thumbnail BLOB) WITHOUT ROWID"
            )

    def __enter__(self) -> "Staging":
        """Discard images that a killed load left in the file."""
        self.clear()
        return self

    def __exit__(self, *raised: object) -> None:
        """Close the file and remove it."""
        self.close()
        for path in self._path.parent.glob(f"{FILE}*"):
            path.unlink(missing_ok=True)

    def add(self, rows: Sequence[Row], codes: Sequence[NDArray[np.float32]], thumbnails: Sequence[bytes]) -> None:
        """Add images, each with its code, (code_size,), and its thumbnail. They replace images with the same keys."""
        if not rows:
            return
        with sqlite_errors(self._path), self._rows:
            self._rows.executemany(
                "INSERT OR REPLACE INTO staged VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (row.key, row.sha256, row.label, row.error, code.tobytes(), thumbnail)
                    for row, code, thumbnail in zip(rows, codes, thumbnails, strict=True)
                ),
            )

    def count(self) -> int:
        """Return the number of images."""
        with sqlite_errors(self._path):
            count: int = self._rows.execute("SELECT COUNT(*) FROM staged").fetchone()[0]
        return count

    def batches(self) -> Iterator[tuple[list[Row], NDArray[np.float32], list[bytes]]]:
        """Yield all images in batches: n rows, their codes (n, code_size) and their thumbnails."""
        with closing(self._rows.execute("SELECT key, sha256, label, error, code, thumbnail FROM staged")) as selected:
            while True:
                with sqlite_errors(self._path):
                    batch = selected.fetchmany(_BATCH_COUNT)
                if not batch:
                    return
                rows = [Row(key, Status.OK, sha256, label, error=error) for key, sha256, label, error, _, _ in batch]
                codes = np.stack([np.frombuffer(code, np.float32) for *_, code, _ in batch])
                yield rows, codes, [thumbnail for *_, thumbnail in batch]

    def clear(self) -> None:
        """Remove all images."""
        with sqlite_errors(self._path), self._rows:
            self._rows.execute("DELETE FROM staged")

    def close(self) -> None:
        """Close the file without removing it."""
        self._rows.close()
