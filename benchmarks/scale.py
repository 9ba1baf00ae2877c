"""Measure time, memory and recall of large galleries, and of galleries that are larger than memory.

`python -m benchmarks.scale grow`  load, index and search 10⁴ to 4·10⁶ codes; prints a table and draws a plot
`python -m benchmarks.scale fit`   search 4·10⁶ codes in 1 GB, 512 MB and 256 MB of memory
`python -m benchmarks.scale try`   compare storage profiles for galleries larger than memory, with 10⁶ codes
`python -m benchmarks.scale build` build and search 4·10⁶ codes in 1 GB, in 512 MB, and without a limit
`python -m benchmarks.scale coefficients`   measure the coefficients of `ingest plan`
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.codes import codes_like_real
from benchmarks.memory import children, process_memory_mb
from benchmarks.served import Served, cgroup, drop_caches, serve
from benchmarks.table import machine, versions
from encoder_service.images import thumbnail_png
from gallery import Entry, GallerySpec
from gallery.edge.shard import EdgeGallery
from gallery.edge.store import EdgeStore
from gallery.profiles import PROFILES, Memory, Profile, Quantised
from ingest.plan import INDEX_GROWTH
from ingest.progress import Stages
from ingest.sources import open_source

app = typer.Typer(add_completion=False, help=__doc__)

# Number of queries. The first half warms up the caches, and the second half is measured.
_QUERIES = 4000
# Number of codes that are stored at a time.
_BATCH = 1024
# Number of different thumbnails. Entry i gets thumbnail i modulo this number.
_THUMBNAILS = 1000
# Seconds between two samples of memory.
_SAMPLE_S = 0.2


@dataclass(frozen=True, slots=True)
class Built:
    """A gallery, and the cost of building it.

    Attributes:
        shard: Folder of the gallery.
        load_s: Seconds to store the codes.
        index_s: Seconds to build the index.
        index_mb: Peak memory of the index build, in MB: all resident memory, and the anonymous part of it.
        disk_mb: Size on disk, in MB.
    """

    shard: Path
    load_s: float
    index_s: float
    index_mb: tuple[float, float]
    disk_mb: float


def build(folder: Path, codes: NDArray[np.float32], stored: Profile, stages: Stages) -> Built:
    """Store codes in a new gallery, as `ingest load` does, and build the index."""
    shutil.rmtree(folder, ignore_errors=True)
    begun = time.perf_counter()
    spec = _store(folder, codes, stored, stages)
    load_s = time.perf_counter() - begun
    begun = time.perf_counter()
    with closing(EdgeGallery(folder, spec, stored)) as gallery, stages.stage("indexing", None), _watched() as peak:
        gallery.index()
    index_s = time.perf_counter() - begun
    disk = sum(path.stat().st_blocks * 512 for path in folder.rglob("*")) / 2**20
    return Built(folder, load_s, index_s, (peak[0], peak[1]), disk)


def _store(folder: Path, codes: NDArray[np.float32], stored: Profile, stages: Stages) -> GallerySpec:
    """Add codes to a gallery, with keys, labels, hashes and thumbnails."""
    folder.mkdir(parents=True, exist_ok=True)
    thumbnails = _thumbnails()
    spec = GallerySpec("scale", "mnist", "f" * 64, 128)
    with closing(EdgeGallery(folder, spec, stored)) as gallery, stages.stage("storing", len(codes)) as advance:
        for start in range(0, len(codes), _BATCH):
            batch = enumerate(codes[start : start + _BATCH], start)
            gallery.upsert([_entry(row, code, thumbnails) for row, code in batch])
            advance(min(_BATCH, len(codes) - start))
    return spec


@cache
def _thumbnails() -> list[bytes]:
    return [thumbnail_png(item.image()) for item in open_source("mnist", limit=_THUMBNAILS)]


def _entry(row: int, code: NDArray[np.float32], thumbnails: list[bytes]) -> Entry:
    return Entry(f"digits/{row}", code, str(row % 10), f"{row:064x}", thumbnails[row % _THUMBNAILS])


@contextmanager
def _watched() -> Iterator[list[float]]:
    """Yield a list with the peak memory of this process's children in MB: [resident, anonymous].

    A thread updates the list while the block runs.
    """
    peak, ended = [0.0, 0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLE_S):
            for child in children(os.getpid()):
                for index, field in enumerate(("VmRSS", "RssAnon")):
                    peak[index] = max(peak[index], process_memory_mb(child, field))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def questions(folder: Path, codes: NDArray[np.float32], stages: Stages) -> tuple[Path, Path]:
    """Return two files: the queries, and the exact answers to the second half of the queries.

    Files that do not exist yet are written.
    """
    asked = folder / f"queries-{_QUERIES}.npy"
    queries = codes_like_real(folder, "test", _QUERIES, stages)
    if not asked.exists():
        np.save(asked, queries)
    answers = folder / f"nearest-{len(codes)}.npy"
    if not answers.exists():
        measured = queries[_QUERIES // 2 :]
        best = np.full((len(measured), 5), -1)
        distance = np.full((len(measured), 5), np.inf, np.float32)
        with stages.stage("exact answers", len(codes)) as advance:
            for start in range(0, len(codes), 50_000):
                part = np.asarray(codes[start : start + 50_000])
                # squared distances without the query's own square, which is the same for all codes
                squares = np.einsum("ij,ij->i", part, part) - 2 * (measured @ part.T)  # (q, part)
                near = np.argpartition(squares, 4, axis=1)[:, :5]
                both = np.concatenate([distance, np.take_along_axis(squares, near, 1)], axis=1)
                rows = np.concatenate([best, near + start], axis=1)
                nearest = np.argsort(both, axis=1)[:, :5]
                best, distance = np.take_along_axis(rows, nearest, 1), np.take_along_axis(both, nearest, 1)
                advance(len(part))
        np.save(answers, best)
    return asked, answers


_DISK, _INLINE = PROFILES["disk"], PROFILES["inline"]
_INT8, _TURBO2 = Quantised.INT8, Quantised.TURBO2
LEVERS = {
    "int8, m 16, ef 64, 4 ×, ids pinned": replace(
        _DISK, quantised=_INT8, m=16, ef=64, oversampling=4, ids=Memory.PINNED
    ),
    "ids cold": replace(_DISK, quantised=_INT8, m=16, ef=64, oversampling=4),
    "2 bits, m 12, ef 64, 4 ×": replace(_DISK, quantised=_TURBO2, ef=64, oversampling=4),
    "2 bits, ef 96": replace(_DISK, quantised=_TURBO2, ef=96, oversampling=4),
    "2 bits, ef 128": replace(_DISK, quantised=_TURBO2, ef=128, oversampling=4),
    "2 bits, ef 64, 8 ×": replace(_DISK, quantised=_TURBO2, ef=64, oversampling=8),
    "2 bits, ef 128, 8 ×": replace(_DISK, quantised=_TURBO2, ef=128, oversampling=8),
    "4 bits, ef 64, 1 ×": replace(_DISK, ef=64, oversampling=1),
    "4 bits, ef 64, 2 ×": replace(_DISK, ef=64, oversampling=2),
    "4 bits, ef 128, 2 ×": replace(_DISK, oversampling=2),
    "4 bits, ef 128, 3 ×: `disk`": _DISK,
    "m 8": replace(_DISK, m=8),
    "inline, ef 32": replace(_INLINE, ef=32),
    "inline, ef 48": replace(_INLINE, ef=48),
    "inline, ef 64": replace(_INLINE, ef=64),
    "inline, ef 96: `inline`": _INLINE,
    "inline, ef 128": replace(_INLINE, ef=128),
    "inline, m 12": replace(_INLINE, m=12),
    "inline, m 24": replace(_INLINE, m=24),
    "inline, 2 bits": replace(_INLINE, quantised=_TURBO2),
    "inline, segments of 1 GB": replace(_INLINE, max_segment_mb=1024),
}
"""Storage profiles that were compared for galleries larger than memory."""

# Numbers of codes that `grow` measures.
_GROWTH = (10_000, 100_000, 1_000_000, 4_000_000)
# Memory limits that `fit` measures, in MB; 0 for no limit.
_FITS = (0, 1024, 512, 256)
# Memory limits that `build` measures, in MB; 0 for no limit.
_BUILDS = (0, 1024, 512)
# Memory of a process before it opens a gallery, in MB.
_BASE_MB = 64

# For each coefficient: the pattern of the shard's files whose size it gives, in bytes per code.
_PARTS = {
    "codes_bytes": "vector_storage/matrix.dat",
    "shortened_bytes": "vector_storage/quantized.*",
    "graph_bytes": "vector_index/*",
    "ids_bytes": "id_tracker.*",
    "payload_bytes": "payload_*/**/*",
}
# Images per second that one process encodes and stores on 2 cores, as `python -m benchmarks.loading` measured.
_LOADED_PER_S = 8_800
# Microseconds per code that a build within a memory limit takes longer, as `build` measured with 4,000,000 codes within
# 1 GB and within 512 MB: it sorts the codes, and reads them from disk again.
_SORTED_US = 68

_HEAD = """\
| gallery | load/s | index s | index MB | anon MB | disk MB | limit MB | open s | cold ms | p50 ms | p99 ms | recall@5 |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""

FolderOption = Annotated[Path, typer.Option(help="Folder for codes and galleries: 8 GB for 4,000,000 codes.")]
CountOption = Annotated[int, typer.Option(help="Number of codes.")]


@app.command("try")
def try_levers(
    folder: FolderOption, count: CountOption = 1_000_000, lever: Annotated[list[str] | None, typer.Option()] = None
) -> None:
    """Compare storage profiles under the memory limits of `fit`, in proportion to the number of codes."""
    print(_machine())
    print(_HEAD)
    for name in lever or LEVERS:
        for memory_mb in (_BASE_MB + count * (limit_mb - _BASE_MB) // 4_000_000 for limit_mb in _FITS[1:]):
            _row(folder, name, LEVERS[name], count, memory_mb)


@app.command()
def grow(folder: FolderOption, profile: str = "balanced", out: Path = Path("docs/scale.png")) -> None:
    """Build and search galleries of 10,000 to 4,000,000 codes without a memory limit."""
    print(_machine())
    print(_HEAD)
    rows = [_row(folder, f"{count:,}", PROFILES[profile], count, 0) for count in _GROWTH]
    _plot(rows, out)


@app.command()
def fit(folder: FolderOption, count: CountOption = 4_000_000, profile: str = "disk") -> None:
    """Search 4,000,000 codes: without a memory limit, within 1 GB, within 512 MB, and within 256 MB."""
    print(_machine())
    print(_HEAD)
    for memory_mb in _FITS:
        _row(folder, profile, PROFILES[profile], count, memory_mb)


@app.command("build")
def build_within(
    folder: FolderOption,
    count: CountOption = 4_000_000,
    profile: str = "disk",
    memory_mb: Annotated[list[int] | None, typer.Option(help="Memory limits in MB; 0 for none.")] = None,
    search_mb: Annotated[list[int] | None, typer.Option(help="Further limits in MB in which it is searched.")] = None,
) -> None:
    """Build a gallery from codes within memory limits, then search it within the same limits, and others if given."""
    print(_machine())
    print(
        "| limit MB | stored, s | indexed, s | in all, s | CPU, s | segments | searched in MB | open s | cold ms "
        "| p50 ms | p99 ms | recall@5 |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for limit_mb in memory_mb or _BUILDS:
        home = folder / f"built-{profile}-{count}-{limit_mb}"
        shutil.rmtree(home, ignore_errors=True)
        with Stages() as stages:
            codes = codes_like_real(folder, "train", count, stages)
            begun = time.perf_counter()
            before_s = _children_cpu_s()
            drop_caches()
            inside = [sys.executable, "-m", "benchmarks.scale", "build-inside", "--folder", str(folder)]
            inside += ["--count", str(count), "--profile", profile, "--limit-mb", str(limit_mb), "--home", str(home)]
            with stages.stage("building", None), cgroup(limit_mb) as enter:
                done = subprocess.run(inside, preexec_fn=enter, stdout=subprocess.PIPE, text=True)
            whole_s, cpu_s = time.perf_counter() - begun, _children_cpu_s() - before_s
            if done.returncode:
                print(f"| {limit_mb or 'none'} | ended with {done.returncode} after {whole_s:.0f} s |", flush=True)
                continue
            store_s, index_s, segments = json.loads(done.stdout)
            queries, answers = questions(folder, codes, stages)
            shard = home / "scale" / "v1" / "shard"
            cost = f"{store_s:.0f} | {index_s:.0f} | {whole_s:.0f} | {cpu_s:.0f} | {segments}"
            for searched_mb in (limit_mb, *(search_mb or ())):
                with stages.stage("searching", None):
                    served = serve(shard, PROFILES[profile], queries, answers, searched_mb)
                limits = f"| {limit_mb or 'none'} | {cost} | {searched_mb or 'all'}"
                print(f"{limits} | {_figures(served)} |", flush=True)
            shutil.rmtree(home)


@app.command(hidden=True)
def build_inside(
    folder: Annotated[Path, typer.Option()],
    count: Annotated[int, typer.Option()],
    profile: Annotated[str, typer.Option()],
    limit_mb: Annotated[int, typer.Option()],
    home: Annotated[Path, typer.Option()],
) -> None:
    """Build a gallery as a load does. `build` runs this in a cgroup."""
    thumbnails = _thumbnails()
    spec = GallerySpec("scale", "mnist", "f" * 64, 128, profile=profile)
    begun = time.perf_counter()
    memory_bytes = limit_mb * 2**20 or None
    with closing(EdgeStore(home).build(spec, memory_bytes=memory_bytes)) as build, Stages() as stages:
        codes = codes_like_real(folder, "train", count, stages)
        with stages.stage("storing", count) as advance:
            for start in range(0, count, _BATCH):
                batch = enumerate(np.array(codes[start : start + _BATCH]), start)
                build.gallery.upsert([_entry(row, code, thumbnails) for row, code in batch])
                advance(min(_BATCH, count - start))
        store_s = time.perf_counter() - begun
        with stages.stage("indexing", None):
            build.index()
        index_s = time.perf_counter() - begun - store_s
        build.publish()
    segments = len(list(home.glob("scale/v1/shard/segments/*/vector_index/links*")))
    print(json.dumps([store_s, index_s, segments]))


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@app.command()
def coefficients(folder: FolderOption, count: CountOption = 200_000) -> None:
    """Measure each profile, and write the coefficients of `ingest plan` to ingest/coefficients.json."""
    recorded = {}
    for stored in PROFILES.values():
        with Stages() as stages:
            codes = codes_like_real(folder, "train", count, stages)
            built = _built(folder, codes, stored, stages)
            queries, answers = questions(folder, codes, stages)
            served = serve(built.shard, stored, queries, answers, 0)
        assert served
        sizes = {part: sum(_blocks(built.shard, pattern)) / count for part, pattern in _PARTS.items()}
        recorded[stored.name] = {
            **{part: round(size, 1) for part, size in sizes.items()},
            "base_bytes": round(served.anonymous_mb * 2**20),
            "load_per_s": _LOADED_PER_S,
            "index_us": round(built.index_s / count * 1e6 / (count / 1e6) ** INDEX_GROWTH, 1),
            "sort_us": _SORTED_US,
            "cores": os.cpu_count(),
        }
        print(stored.name, recorded[stored.name], f"recall@5 {served.recall_at_5:.4f}, p50 {served.p50_ms:.2f} ms")
    Path("ingest/coefficients.json").write_text(json.dumps(recorded, indent=2) + "\n")


def _blocks(shard: Path, pattern: str) -> list[int]:
    return [path.stat().st_blocks * 512 for path in shard.rglob(pattern) if path.is_file()]


def _row(folder: Path, name: str, stored: Profile, count: int, memory_mb: int) -> tuple[Built, Served | None]:
    with Stages() as stages:
        codes = codes_like_real(folder, "train", count, stages)
        queries, answers = questions(folder, codes, stages)
        built = _built(folder, codes, stored, stages)
        with stages.stage("searching", None):
            served = serve(built.shard, stored, queries, answers, memory_mb)
    print(
        f"| {name} | {count / built.load_s:,.0f} | {built.index_s:.0f} | {built.index_mb[0]:,.0f} "
        f"| {built.index_mb[1]:,.0f} | {built.disk_mb:,.0f} "
        f"| {memory_mb or 'all'} | {_figures(served)} |",
        flush=True,
    )
    return built, served


def _figures(served: Served | None) -> str:
    if served is None:
        return "killed | | | |"
    return (
        f"{served.open_s:.2f} | {served.cold_ms:.2f} | {served.p50_ms:.2f} | {served.p99_ms:.2f} "
        f"| {served.recall_at_5:.4f}"
    )


def _built(folder: Path, codes: NDArray[np.float32], stored: Profile, stages: Stages) -> Built:
    """Build a gallery, or reuse an identical gallery of an earlier run."""
    parts = (stored.quantised, f"m{stored.m}", stored.codes, stored.graph, stored.ids, f"{stored.max_segment_mb}mb")
    shard = folder / "-".join((*parts, *(["inline"] if stored.inline else []), str(len(codes))))
    record = shard.with_suffix(".json")
    # leave out the settings that only searches use, because they do not change the files
    profile = {**asdict(stored), "name": "", "meaning": "", "ef": 0, "oversampling": 0}
    if record.exists() and json.loads(record.read_text())["profile"] == profile:
        return Built(shard, **json.loads(record.read_text())["built"])
    built = build(shard, codes, stored, stages)
    figures = asdict(built)
    del figures["shard"]
    record.write_text(json.dumps({"profile": profile, "built": figures}))
    return built


def _plot(rows: list[tuple[Built, Served | None]], out: Path) -> None:
    """Draw each cost against the number of codes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    searched = [served for _, served in rows if served]
    panels: dict[str, tuple[str, list[list[float]]]] = {
        "codes stored per second": (
            "linear",
            [[count / built.load_s for count, (built, _) in zip(_GROWTH, rows, strict=True)]],
        ),
        "indexing, s": ("log", [[built.index_s for built, _ in rows]]),
        "on disk, MB": ("log", [[built.disk_mb for built, _ in rows]]),
        "search, ms": ("linear", [[served.p50_ms for served in searched], [served.p99_ms for served in searched]]),
    }
    figure, axes = pyplot.subplots(1, len(panels), figsize=(15, 3.6), constrained_layout=True)
    for axis, (title, (scale, lines)) in zip(axes, panels.items(), strict=True):
        for values, style in zip(lines, ("o-", "o--"), strict=False):
            axis.plot(_GROWTH, values, style)
        axis.set(xscale="log", yscale=scale, title=title, xlabel="codes")
        axis.grid(alpha=0.3)
        if scale == "linear":
            axis.set_ylim(bottom=0)
            axis.yaxis.set_major_formatter("{x:,g}")
    axes[-1].legend(["p50", "p99"])
    figure.savefig(out, dpi=110)


def _machine() -> str:
    return f"{machine()}, {versions(['qdrant-edge-py'])}"


if __name__ == "__main__":
    app()
