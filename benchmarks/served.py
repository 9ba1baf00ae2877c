"""Serve codes from a gallery inside a memory cgroup: `python -m benchmarks.served JOB.json` is the process inside.

Linux alone, as root. The page cache is dropped before, so the first searches are cold.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from benchmarks.memory import taken_mb
from gallery import GallerySpec, Query
from gallery.edge.shard import EdgeGallery
from gallery.profiles import Profile

_COLD = 100


@dataclass(frozen=True, slots=True)
class Served:
    """What a process that served a gallery saw.

    Attributes:
        open_s: Time to open the gallery, cold.
        cold_ms: Median of the first 100 searches.
        p50_ms: Median of the warm searches.
        p99_ms: Of a hundred warm searches, one took longer.
        recall_at_5: The part of the exact five nearest that the warm searches found.
        anonymous_mb: Memory that can't be given back to the disk.
    """

    open_s: float
    cold_ms: float
    p50_ms: float
    p99_ms: float
    recall_at_5: float
    anonymous_mb: float


def serve(shard: Path, stored: Profile, queries: Path, nearest: Path, memory_mb: int) -> Served | None:
    """Search a gallery in a process that has `memory_mb` for itself and its part of the page cache.

    Args:
        shard: The gallery's shard.
        stored: Its profile.
        queries: (n, 128) codes, .npy; the second half is measured.
        nearest: (n / 2, 5) rows of the exact answers to that half, .npy.
        memory_mb: The cgroup's limit; 0 for none.

    Returns:
        None where the process was killed because that was not enough.
    """
    job = {
        "shard": str(shard),
        "profile": asdict(stored),
        "queries": str(queries),
        "nearest": str(nearest),
    }
    drop_caches()
    with cgroup(memory_mb) as enter:
        command = [sys.executable, "-m", "benchmarks.served", json.dumps(job)]
        done = subprocess.run(command, preexec_fn=enter, stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode == -signal.SIGKILL:
        return None
    done.check_returncode()
    return Served(**json.loads(done.stdout))


def _inside(job: dict[str, Any]) -> Served:
    kinds = get_type_hints(Profile)  # JSON has only the enums' values
    stored = Profile(**{name: kinds[name](value) for name, value in job["profile"].items()})
    queries, nearest = np.load(str(job["queries"])), np.load(str(job["nearest"]))
    begun = time.perf_counter()
    gallery = EdgeGallery(Path(str(job["shard"])), GallerySpec("scale", "mnist", "f" * 64, 128), stored)
    open_s = time.perf_counter() - begun
    times, found = [], []
    for code in queries:
        begun = time.perf_counter()
        hits = gallery.search(Query(code))
        times.append((time.perf_counter() - begun) * 1e3)
        found.append({int(hit.key.rpartition("/")[2]) for hit in hits})
    half = len(queries) // 2
    warm = np.array(times[half:])
    right = sum(len(hits & set(rows)) for hits, rows in zip(found[half:], nearest.tolist(), strict=True))
    anonymous_mb = taken_mb(os.getpid(), "RssAnon")
    gallery.close()
    return Served(
        open_s,
        float(np.median(times[:_COLD])),
        float(np.median(warm)),
        float(np.quantile(warm, 0.99)),
        right / nearest.size,
        anonymous_mb,
    )


@contextmanager
def cgroup(memory_mb: int) -> Iterator[Callable[[], object] | None]:
    """Yield what a new process calls to be in a cgroup of so much memory; None for no limit."""
    if not memory_mb:
        yield None
        return
    v1 = Path("/sys/fs/cgroup/memory")
    folder = (v1 if v1.exists() else Path("/sys/fs/cgroup")) / f"lookalike-{os.getpid()}"
    folder.mkdir()
    limit = folder / ("memory.limit_in_bytes" if v1.exists() else "memory.max")
    try:
        limit.write_text(str(memory_mb * 2**20))
        yield lambda: (folder / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        folder.rmdir()


def drop_caches() -> None:
    """Make Linux forget all files that it holds in memory."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


if __name__ == "__main__":
    print(json.dumps(asdict(_inside(json.loads(sys.argv[1])))))
