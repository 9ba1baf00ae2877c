"""Files and folders: atomic replacement, free space, locks between processes, and the user's data folder."""

import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

import portalocker
from platformdirs import user_data_path

from gallery.errors import InvalidInputError, StoreFullError, StoreLockedError, StoreUnusableError

# Bytes per read of a sparse copy. A block of zeros becomes a hole, so smaller blocks leave less to write.
_BLOCK = 64 * 1024
# The lock file in a scratch folder, and the age in seconds at which a scratch folder without one counts as abandoned.
# `scratch_folder` creates the file at once. Older releases created none, but took less time than this.
_IN_USE = "OPEN"
_SCRATCH_S = 3600.0


def user_data_folder() -> Path:
    """Return the folder that holds this user's galleries, encoders and ledgers.

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
    """Yield a file to write, and replace `path` with it if the block ends without an error.

    The replacement is atomic: readers find either the old content or the new, even after a crash.
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
    """Replace the content of a file atomically."""
    with replacing(path) as file:
        file.write(content)


def copy_sparse(source: str, target: str) -> None:
    """Copy a file without its permissions. The copy has a hole wherever the file has a hole or a long run of zeros."""
    with Path(source).open("rb") as reader, Path(target).open("wb") as writer:
        while block := reader.read(_BLOCK):
            if block.count(0) < len(block):
                writer.write(block)
                continue
            try:
                reader.seek(reader.tell(), os.SEEK_DATA)
            except OSError as error:  # ENXIO: only a hole is left; any other error: the file system reports no holes
                if error.errno == errno.ENXIO:
                    reader.seek(0, os.SEEK_END)
            writer.seek(reader.tell())
        writer.truncate(reader.tell())


@contextmanager
def file_errors(place: str) -> Iterator[None]:
    """Translate each OSError in the block into StoreFullError or StoreUnusableError.

    Args:
        place: The store or folder to name in the error if the OSError names no file.
    """
    try:
        yield
    except OSError as error:
        place = os.fsdecode(error.filename) if error.filename else place
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFullError("the disk is full: make space and run the same command again", place=place) from error
        raise StoreUnusableError(
            f"can't be used: {error.strerror or error}: name another store with --store", place=place
        ) from error


def check_space(folder: Path, needed: int) -> None:
    """Check that the disk of a folder has enough free space.

    Args:
        folder: The folder. It need not exist yet.
        needed: Bytes that must be free.

    Raises:
        StoreFullError: The disk has less space.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise StoreFullError(
            f"the disk is full: expected {needed // 2**20:,} MB free, got {free // 2**20:,}: make space and run the "
            "same command again",
            place=str(folder),
        )


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder, and remove it afterwards. If this process is killed, `clear_scratch` removes it.

    Args:
        parent: The folder to create it in, which is created if missing.
        prefix: First characters of its name.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as scratch,
        closing(Lock(Path(scratch) / _IN_USE, f"folder {scratch}")),
    ):
        yield Path(scratch)


def clear_scratch(parent: Path, prefix: str) -> None:
    """Remove the scratch folders of killed processes, as far as permissions allow; see `scratch_folder`."""
    for scratch in parent.glob(f"{prefix}*"):
        with suppress(OSError, StoreLockedError):
            lock_file = scratch / _IN_USE
            if lock_file.exists() or time.time() - scratch.stat().st_mtime > _SCRATCH_S:
                with closing(Lock(lock_file, f"folder {scratch}")):
                    shutil.rmtree(scratch, ignore_errors=True)


class Lock:
    """A lock between processes, held until `close` or until the process dies. The lock file names the process."""

    def __init__(self, path: Path, subject: str) -> None:
        """Take the lock without waiting.

        Args:
            path: The lock file. It is created if missing, and never removed.
            subject: The thing that the lock protects, for the error: "gallery 'mnist'".

        Raises:
            StoreLockedError: Another process holds the lock.
        """
        self._file: TextIO = path.open("a+", encoding="utf-8", errors="replace")
        _take(self._file, portalocker.LockFlags.EXCLUSIVE, subject)
        self._file.truncate(0)
        self._file.write(
            f"process {os.getpid()} ({Path(sys.argv[0]).name} {' '.join(sys.argv[1:2])})".replace(" )", ")")
        )
        self._file.flush()

    def close(self) -> None:
        """Release the lock. Closing it twice is harmless."""
        self._file.close()


@contextmanager
def shared_lock(path: Path, subject: str) -> Iterator[None]:
    """Keep other processes from taking a `Lock` during the block. The lock file is not written, and need not exist.

    Args:
        path: The lock file.
        subject: The thing that the lock protects, for the error: "gallery 'mnist'".

    Raises:
        StoreLockedError: Another process holds the lock.
    """
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:  # no process has ever taken the lock
        yield
        return
    with file:
        _take(file, portalocker.LockFlags.SHARED, subject)
        yield


def _take(file: TextIO, kind: portalocker.LockFlags, subject: str) -> None:
    """Lock an open file without waiting. If another process has locked it, close it and raise StoreLockedError."""
    try:
        portalocker.lock(file, kind | portalocker.LockFlags.NON_BLOCKING)
    except (portalocker.LockException, BlockingIOError):
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise StoreLockedError(
            f"{subject} is in use by {holder}: wait for it or stop it; to search a running service use "
            "`encoder-service search … --address`, to add images to it `ingest load … --service`, to compact it "
            "`ingest compact … --service`"
        ) from None
