"""Measure searches by a process whose memory is limited by a cgroup. This needs Linux and root.

`serve` drops the page cache, so that the first searches are cold. Then it runs `python -m benchmarks.served JOB` inside
the cgroup, where JOB holds the arguments as JSON.
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

# Number of searches after opening the gallery that count as cold.
_COLD = 100


@dataclass(frozen=True, slots=True)
class Served:
    """The measurements of a process that searched a gallery.

    Attributes:
        open_s: Seconds to open the gallery with an empty page cache.
        cold_ms: Median latency of the first 100 searches, in milliseconds.
        p50_ms: Median latency of the warm searches, in milliseconds.
        p99_ms: 99th percentile of the latency of the warm searches, in milliseconds.
        recall_at_5: Share of the exact five nearest codes that the warm searches found, 0 to 1.
        anonymous_mb: Anonymous memory of the process in MB, without the pages of files, which Linux may drop.
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
        The measurements; None if the process was killed for lack of memory.
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
    kinds = get_type_hints(Profile)  # to convert text from JSON back to enums
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
    """Create a cgroup with a memory limit, and yield the `preexec_fn` that puts a new process into it.

    Args:
        memory_mb: The limit in MB. 0 means no limit: no cgroup is created, and None is yielded.
    """
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
