"""Read a shard's files into the operating system's page cache: some before it is opened, others in the background."""

import math
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

from gallery.memory import available_memory
from gallery.profiles import Memory, Profile

# Glob patterns of a segment's files, the most important first. Each key is the attribute of `Profile` that says how to
# keep these files in memory.
_FILES = {
    "shortened": "vector_storage/quantized.*",
    "graph": "vector_index/links*",
    "codes": "vector_storage/matrix.dat",
}
# Glob pattern of a segment's files with keys, labels and thumbnails. A search reads a page of them for each hit.
_PAYLOAD = "payload_storage/page_*.dat"
# Glob patterns of the files that Edge reads page by page, and as a whole, while it opens a shard.
_OPENED = ("segments/*/id_tracker.*", "segments/*/**/flags_*.dat")
# Bytes per read-ahead request. Linux ignores anything beyond this in one request.
_CHUNK = 2 * 1024 * 1024
# Bytes of the buffer that one read fills over and over, and how often: 32 MB per read, and `ReadAhead.close` waits for
# one. With shorter reads, the thread would mostly wait for the GIL, which Edge holds during a search.
_BUFFER, _TIMES = 128 * 1024, 256
# Fraction of the available memory that is filled in advance. The rest is for the process itself and for what searches
# read from disk.
_SHARE = 0.8


def prefetch(folder: Path, profile: Profile) -> None:
    """Make the system read what Edge reads page by page while it opens a shard, which is far slower.

    Args:
        folder: The shard's folder.
        profile: The gallery's profile. Edge itself reads the files that the profile caches while it opens the shard.
    """
    if sys.platform != "linux":
        return
    for pattern in (*_OPENED, *(f"segments/*/{pattern}" for pattern in _cached(profile))):
        for path in folder.glob(pattern):
            with path.open("rb") as file:
                for start in range(0, os.fstat(file.fileno()).st_size, _CHUNK):
                    os.posix_fadvise(file.fileno(), start, _CHUNK, os.POSIX_FADV_WILLNEED)


def _cached(profile: Profile) -> list[str]:
    return [pattern for part, pattern in _FILES.items() if getattr(profile, part) is not Memory.COLD]


class ReadAhead:
    """A thread that reads the files which a shard's profile keeps in memory into the page cache.

    Edge has read most of them once, but under memory pressure Linux evicts what was read only once. If the profile
    keeps the full codes in memory, the thread also reads the payload, at the end and only if all of it fits: so the
    first searches do not read it from disk. Searches can be answered meanwhile. The thread stops when it has filled
    its share of the memory. Does nothing on systems other than Linux.
    """

    def __init__(self, folder: Path, profile: Profile) -> None:
        """Begin to read.

        Args:
            folder: The shard's folder.
            profile: The gallery's profile, which says what to keep in memory.
        """
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read_all, args=(folder, profile), name="read-ahead", daemon=True)
        if _cached(profile) and sys.platform == "linux":
            self._thread.start()

    def close(self) -> None:
        """Stop reading, and wait until the thread has closed its file."""
        self._closing.set()
        if self._thread.ident:
            self._thread.join()

    def _read_all(self, folder: Path, profile: Profile) -> None:
        reads_codes = profile.codes is not Memory.COLD
        # Full codes that searches read from disk could evict the quantised codes and the graph, which every search
        # reads. Under memory pressure, Linux first evicts pages that were read only once (its inactive list). So read
        # the quantised codes and the graph twice.
        times = 1 if reads_codes else 2
        memory = available_memory()
        allowed = math.inf if memory is None else memory * _SHARE
        with suppress(OSError):  # searches report a file that can't be read
            for pattern in _cached(profile):
                for path in folder.glob(f"segments/*/{pattern}"):
                    for _ in range(times):
                        read = self._read(path, allowed)
                    allowed -= read
            pages = list(folder.glob(f"segments/*/{_PAYLOAD}")) if reads_codes else []
            if sum(page.stat().st_size for page in pages) <= allowed:
                for page in pages:
                    self._read(page, math.inf)

    def _read(self, path: Path, most: float) -> int:
        """Read a file, but no more than `most` bytes. Return the number of bytes."""
        read, buffers = 0, [bytearray(_BUFFER)] * _TIMES
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while read < most and not self._closing.is_set() and (count := os.readv(file.fileno(), buffers)):
                read += count
        return read
