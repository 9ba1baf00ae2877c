"""Translate SQLite's errors into errors of this project."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gallery.errors import StoreDamagedError, StoreFullError, StoreUnusableError


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Translate SQLite's errors in the block into errors of this project.

    Args:
        path: The SQLite file, for the errors.

    Raises:
        StoreFullError: The disk is full.
        StoreUnusableError: The file can't be read or written.
        StoreDamagedError: The file is not a SQLite database.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        # errors raised by the sqlite3 module itself have no code
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise StoreFullError("the disk is full: free some space and load again", place=str(path)) from error
        raise StoreUnusableError(f"can't be used: {error}: name another store with --store", place=str(path)) from error
    except sqlite3.DatabaseError as error:
        raise StoreDamagedError(
            f"expected a ledger, got a file that can't be read: {error}: build it again with --rebuild",
            place=str(path),
        ) from error
