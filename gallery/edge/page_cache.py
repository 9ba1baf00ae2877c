"""Load a shard's files into the operating system's page cache, and keep them there."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from gallery.profiles import Memory, Profile

# Glob patterns of a segment's files, by the attribute of `Profile` that says how far they are kept in memory.
_FILES = {
    "codes": "vector_storage/matrix.dat",
    "shortened": "vector_storage/quantized.*",
    "graph": "vector_index/links*",
}
# Bytes per read-ahead request. Linux ignores anything beyond this in one request.
_CHUNK = 2 * 1024 * 1024


def prefetch(folder: Path, profile: Profile) -> None:
    """Make the system read the files that the profile keeps in memory.

    Without this, Edge would read them page by page when they are first used, which is far slower.
    """
    if sys.platform != "linux":
        return
    for part in _FILES:
        if getattr(profile, part) is not Memory.COLD:
            for path in _paths(folder, part):
                with path.open("rb") as file:
                    for start in range(0, os.fstat(file.fileno()).st_size, _CHUNK):
                        os.posix_fadvise(file.fileno(), start, _CHUNK, os.POSIX_FADV_WILLNEED)


def keep(folder: Path, profile: Profile) -> None:
    """Keep the quantised codes and the graph in the page cache if the full codes are read from disk.

    Every search reads the quantised codes and the graph. Full codes that searches read from disk could evict them.
    Under memory pressure, Linux first evicts pages that were read only once (its inactive list). So this function reads
    the quantised codes and the graph twice.
    """
    if profile.codes is not Memory.COLD:
        return
    buffer = bytearray(_CHUNK)
    for part in ("shortened", "graph"):
        for path in _paths(folder, part):
            for _ in range(2):
                with path.open("rb", buffering=0) as file:
                    while file.readinto(buffer):
                        pass


def _paths(folder: Path, part: str) -> Iterator[Path]:
    return folder.glob(f"segments/*/{_FILES[part]}")
