"""Searches in a gallery by a process inside a memory cgroup. Needs Linux and root.

`serve` drops the page cache, so that the first searches are cold, and runs `python -m benchmarks.served JOB` inside the
cgroup. JOB is the JSON text of its arguments.
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

from benchmarks.memory import process_memory_mb
from gallery import GallerySpec, Query
from gallery.edge.shard import EdgeGallery
from gallery.profiles import Profile

# Searches that count as cold.
_COLD = 100


@dataclass(frozen=True, slots=True)
class Served:
    """The measurements of a process that searched a gallery.

    Attributes:
        open_s: Time to open the gallery with a cold page cache.
        cold_ms: Median latency of the first 100 searches.
        p50_ms: Median latency of the warm searches.
        p99_ms: 99th percentile of the latency of the warm searches.
        recall_at_5: Share of the exact five nearest that the warm searches found.
        anonymous_mb: Anonymous memory of the process, which Linux can't reclaim by dropping pages of files.
    """

    open_s: float
    cold_ms: float
    p50_ms: float
    p99_ms: float
    recall_at_5: float
    anonymous_mb: float


def serve(shard: Path, stored: Profile, queries: Path, nearest: Path, memory_mb: int) -> Served | None:
    """Search a gallery in a process with limited memory.

    Args:
        shard: Folder of the gallery's shard.
        stored: Profile of the gallery.
        queries: .npy file of codes, (n, 128). The first half warms up, the second half is measured.
        nearest: .npy file with the rows of the exact five nearest to each query of the second half, (n / 2, 5).
        memory_mb: Limit of the cgroup in MB, for the process and its share of the page cache; 0 for no limit.

    Returns:
        The measurements, or None if the process was killed because the memory was not enough.
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
    kinds = get_type_hints(Profile)  # JSON holds the values of enums as text
    stored = Profile(**{name: kinds[name](value) for name, value in job["profile"].items()})
    queries, nearest = np.load(str(job["queries"])), np.load(str(job["nearest"]))
    begun = time.perf_counter()
    gallery = EdgeGallery(Path(str(job["shard"])), GallerySpec("scale", "mnist", "f" * 64, 128), stored)
    open_s = time.perf_counter() - begun
    times, results = [], []
    for code in queries:
        begun = time.perf_counter()
        hits = gallery.search(Query(code))
        times.append((time.perf_counter() - begun) * 1e3)
        results.append({int(hit.key.rpartition("/")[2]) for hit in hits})
    half = len(queries) // 2
    warm = np.array(times[half:])
    found_count = sum(len(hits & set(rows)) for hits, rows in zip(results[half:], nearest.tolist(), strict=True))
    anonymous_mb = process_memory_mb(os.getpid(), "RssAnon")
    gallery.close()
    return Served(
        open_s,
        float(np.median(times[:_COLD])),
        float(np.median(warm)),
        float(np.quantile(warm, 0.99)),
        found_count / nearest.size,
        anonymous_mb,
    )


@contextmanager
def cgroup(memory_mb: int) -> Iterator[Callable[[], object] | None]:
    """Yield the `preexec_fn` with which a new process enters a cgroup of this much memory; None for no limit."""
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
    """Drop Linux's page cache."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


if __name__ == "__main__":
    print(json.dumps(asdict(_inside(json.loads(sys.argv[1])))))
