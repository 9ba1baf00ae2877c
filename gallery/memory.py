"""The memory that building a gallery may take, and the sizes of the parts that it is built in.

Edge copies the codes of a segment in the order of their ids, which are random, so the segment must fit in memory while
it is copied for the first time. The copy is in order and can be read from disk. So a load has two steps. It sorts small
parts while it stores codes, and at its end it joins them into segments as large as their graphs allow.
"""

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path

from gallery.errors import InvalidInputError
from gallery.profiles import Profile, Quantised

PROCESSES = 192_000_000
"""Memory of the processes that build a gallery, in bytes, without the codes.

A load with an encoder and the batches in flight takes up to 155 MB, and the index process 20 MB before it reads a code.
"""
LEAST = 64_000_000
"""Least memory for the codes that are being built, in bytes.

With less, a load would spend its time on opening and closing tiny parts.
"""
# A part that is being sorted is in memory twice, as it was stored and as it is written, with a table of its ids.
_SORTED_SHARE = 3
# Bytes on disk of an entry's key, label, hash, id, small thumbnail and part of the graph.
_ENTRY = 640
SERVER_SHARE = 4
"""Memory of a server's node as a multiple of the full codes of its largest segment.

With this memory, 1,000,000 codes that had not been sorted were indexed as quickly as with more.
"""
# Smallest segment of a server, in MB. Below about 10 MB, Qdrant builds no graph.
_LEAST_SEGMENT_MB = 16
# Bytes per code while a graph is built: for the tables of ids, and for each link of `m`. With `m` 12, the index process
# held 353 bytes per code of anonymous memory (2,300,000 codes). The rest of these 376 is for the files that it reads:
# without it, the process read 50 GB from disk in 12 minutes.
_IDS, _LINK = 160, 18
# Bytes on disk per number of a code in a graph that holds the codes, with `m` 16.
_INLINE = 16.3
# Bytes per number of a code that building the graph reads in random order.
_COMPARED = {Quantised.NONE: 4.0, Quantised.INT8: 1.03, Quantised.TURBO4: 0.6, Quantised.TURBO2: 0.35}


@dataclass(frozen=True, slots=True)
class Parts:
    """Sizes of the parts that a gallery is built in.

    Attributes:
        sorted_bytes: Stored bytes, with thumbnails, after which a load sorts them.
        segment_mb: Largest size of a segment, in MB (2^20 bytes) of full codes.
    """

    sorted_bytes: int
    segment_mb: int


def available_memory() -> int | None:
    """Return the memory that this process may use, in bytes: its cgroup's limit or the machine's available memory.

    None if the system does not tell.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except (OSError, StopIteration, ValueError):
        return None
    limits = [machine]
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if not controllers:  # version 2
            limits += _limits(Path("/sys/fs/cgroup"), path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(Path("/sys/fs/cgroup/memory"), path, "memory.limit_in_bytes")
    return min(limits)


def return_freed_heap() -> None:
    """Return this process's freed heap to the system, which the C library otherwise keeps. On Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def node_segment_mb(memory_bytes: int, profile: Profile) -> int:
    """Return the largest segment that a server with this memory can index, in MB (2^20 bytes) of full codes.

    A server indexes codes in the order in which they were added, so it needs more memory than a load into a folder.

    Raises:
        InvalidInputError: The memory is too small for any segment.
    """
    segment_mb = memory_bytes // SERVER_SHARE // 2**20
    if segment_mb < _LEAST_SEGMENT_MB:
        raise _too_little(memory_bytes, _LEAST_SEGMENT_MB * 2**20 * SERVER_SHARE)
    return min(segment_mb, profile.max_segment_mb)


def _too_little(memory_bytes: int, least_bytes: int) -> InvalidInputError:
    return InvalidInputError(
        f"--memory: expected at least {-(-least_bytes // 1_000_000)} MB to build a gallery in, got "
        f"{memory_bytes // 1_000_000} MB"
    )


def _limits(root: Path, path: str, name: str) -> list[int]:
    """Return the limits of a cgroup and its parents. In a container, `root` may already be the process's own cgroup."""
    folder = root / path.lstrip("/")
    limits = []
    for file in (parent / name for parent in (folder, *folder.parents) if parent.is_relative_to(root)):
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # the file is missing, or says "max"
            continue
    return limits


def graph_bytes(profile: Profile, code_size: int) -> float:
    """Return the memory that building the graph takes, in bytes per code."""
    return _IDS + _LINK * profile.m + _COMPARED[profile.quantised] * code_size


def disk_bytes(profile: Profile, code_size: int) -> float:
    """Return the size on disk of an entry with a small thumbnail and of its part of the index, in bytes."""
    full = _INLINE if profile.inline else 4.0
    return (full + _COMPARED[profile.quantised]) * code_size + _ENTRY


def build_parts(memory_bytes: int | None, profile: Profile, code_size: int) -> Parts:
    """Return the parts to build a gallery in.

    Args:
        memory_bytes: Memory for the load, its index process and the files that they read; None for `available_memory`.
        profile: The gallery's storage profile.
        code_size: Length of a code.

    Raises:
        InvalidInputError: `memory_bytes` is too small for any part.
    """
    if memory_bytes is not None and memory_bytes < PROCESSES + LEAST:
        raise _too_little(memory_bytes, PROCESSES + LEAST)
    memory = memory_bytes or available_memory()
    if memory is None:
        return Parts(profile.max_segment_mb * 2**20, profile.max_segment_mb)
    usable = max(memory - PROCESSES, LEAST)
    codes = usable / graph_bytes(profile, code_size)
    segment_mb = max(1, int(codes * code_size * 4 / 2**20))
    return Parts(usable // _SORTED_SHARE, min(segment_mb, profile.max_segment_mb))
