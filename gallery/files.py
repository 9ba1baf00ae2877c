"""Two things a folder of galleries needs from the file system: replacing a file whole, and holding a lock."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

import portalocker
from platformdirs import user_data_path

from gallery.errors import InvalidInputError, StoreLockedError


def user_data_folder() -> Path:
    """Return the folder of this user's galleries, encoders and ledgers.

    Raises:
        InvalidInputError: The user has no home folder, as in a container that runs under an unknown user id.
    """
    try:
        return user_data_path("lookalike", appauthor=False)
    except RuntimeError as error:
        raise InvalidInputError(
            "expected a home folder, got none: set HOME, or name a store with --store edge:DIR"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write that takes the place of `path` when the block ends well.

    A reader, or a crash, meets the old content or the new, never a part.
    """
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole, or leave what was there."""
    with replacing(path) as file:
        file.write(content)


class Lock:
    """A lock that one process holds until it lets go or dies, in a file that says who it is."""

    def __init__(self, path: Path, what: str) -> None:
        """Take the lock.

        Args:
            path: The lock's file; made if missing, and left behind.
            what: What is locked, for the message: "gallery 'mnist'".

        Raises:
            StoreLockedError: Another process holds it.
        """
        self._file: TextIO = path.open("a+", encoding="utf-8")
        try:
            portalocker.lock(self._file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
        except (portalocker.LockException, BlockingIOError):
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise StoreLockedError(
                f"{what} is in use by {holder}: wait for it or stop it; a running service is asked with "
                "`encoder-service search … --address`, and added to with `ingest load … --service`"
            ) from None
        self._file.truncate(0)
        self._file.write(
            f"process {os.getpid()} ({Path(sys.argv[0]).name} {' '.join(sys.argv[1:2])})".replace(" )", ")")
        )
        self._file.flush()

    def close(self) -> None:
        """Let go; doing it twice is fine."""
        self._file.close()
