"""Shard files in the operating system's page cache: prefetched when a shard is opened, and kept there."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from gallery.profiles import Memory, Profile

# Files of a segment, by the attribute of `Profile` that sets their memory.
_FILES = {
    "codes": "vector_storage/matrix.dat",
    "shortened": "vector_storage/quantized.*",
    "graph": "vector_index/links*",
}
# Bytes per read-ahead request. Linux ignores anything beyond this in one request.
_CHUNK = 2 * 1024 * 1024


def prefetch(folder: Path, profile: Profile) -> None:
    """Have the system read the files that a shard keeps in memory. Edge reads page by page, which is far slower."""
    if sys.platform != "linux":
        return
    for part in _FILES:
        if getattr(profile, part) is not Memory.COLD:
            for path in _paths(folder, part):
                with path.open("rb") as file:
                    for start in range(0, os.fstat(file.fileno()).st_size, _CHUNK):
                        os.posix_fadvise(file.fileno(), start, _CHUNK, os.POSIX_FADV_WILLNEED)


def keep(folder: Path, profile: Profile) -> None:
    """Have the system keep the files that every search reads, if the full codes compete with them for memory.

    Under memory pressure, Linux first evicts pages that were read only once (its inactive list). So this reads the
    quantised codes and the graph twice.
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
