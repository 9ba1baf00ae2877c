"""Measure the speed and the memory of `ingest load`: `python -m benchmarks.loading`.

Without options, it loads MNIST, and compares the speed with that of the slowest stage (read, prepare, encode or store)
alone. `make bench-million` generates a .tar of 1,000,000 images, loads it, and measures the memory. It takes about a
quarter of an hour on 2 cores, and 5 GB of disk.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from benchmarks.memory import children, process_memory_mb
from benchmarks.table import Table, machine
from benchmarks.timing import seconds
from encoder_service.encoder import load_encoder
from gallery import GallerySpec, open_store
from ingest.loading.ledger import Ledger
from ingest.loading.pipeline import LoadPass
from ingest.progress import Stages
from ingest.sources import open_source

_BIN = Path(sys.executable).parent
_STAGES = ("read", "prepare", "encode", "store")
# Number of repetitions of each measurement. The median is printed.
_ROUNDS = 3
# Seconds between two samples of memory.
_SAMPLE_S = 0.2


def main(million: bool = False, count: int = 1_000_000, folder: Path | None = None) -> None:
    """Run one of the two benchmarks, MNIST or a million generated images, and print the results."""
    print(machine())
    if not million:
        print(compare())
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _million(Path(scratch), count)


def compare() -> Table:
    """Compare the speed of each stage alone with the speed of all four, which overlap in a load of MNIST."""
    alone: dict[str, list[float]] = {stage: [] for stage in _STAGES}
    together: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(_ROUNDS):
            for stage, took_s in _one_after_the_other(f"edge:{scratch}/alone{number}").items():
                alone[stage].append(took_s)
            together.append(_overlapping(f"edge:{scratch}/together{number}"))
    rates = {stage: 60_000 / median(times) for stage, times in alone.items()}
    rate = 60_000 / median(together)
    rows = [(f"{stage} alone", f"{speed:,.0f}") for stage, speed in rates.items()]
    rows.append(("all four, overlapping", f"{rate:,.0f}"))
    note = (
        f"The four stages of a load together reach {rate / min(rates.values()):.0%} of the slowest stage's speed alone."
    )
    return Table("Loading MNIST, by stage", ("stage", "images a second"), rows, note)


def _one_after_the_other(store: str) -> dict[str, float]:
    """Run the stages one after the other over all of MNIST, and return the seconds of each."""
    took = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool, _load(store, pool) as load:
        begun = time.perf_counter()
        batches = list(load.read())
        took["read"] = time.perf_counter() - begun
        for stage in ("prepare", "encode", "store"):
            begun = time.perf_counter()
            batches = [getattr(load, stage)(batch) for batch in batches]
            took[stage] = time.perf_counter() - begun
    return took


def _overlapping(store: str) -> float:
    with ThreadPoolExecutor(os.cpu_count()) as pool, _load(store, pool) as load:
        return seconds(load.run)


class _load:  # noqa: N801 (a context manager, used like a function)
    """Prepare a load of MNIST into a new gallery, and close the gallery afterwards."""

    def __init__(self, store: str, pool: ThreadPoolExecutor) -> None:
        self._encoder = load_encoder("mnist")
        spec = self._encoder.spec
        self._build = open_store(store).build(GallerySpec("mnist", spec.name, spec.fingerprint, spec.code_size))
        self._ledger = Ledger(self._build.local_folder)
        self._pool = pool

    def __enter__(self) -> LoadPass:
        source = open_source("mnist")
        return LoadPass(source, self._encoder, self._build.gallery, self._ledger, Stages(), self._pool)

    def __exit__(self, *raised: object) -> None:
        with closing(self._build), closing(self._ledger):
            pass


def _million(scratch: Path, count: int) -> None:
    archive = scratch / "generated.tar"
    begun = time.perf_counter()
    generate(archive, count)
    print(f"{count:,} images, {archive.stat().st_size / 1e9:.1f} GB, generated in {time.perf_counter() - begun:.0f} s")
    log = (scratch / "log").open("w+")
    command = [str(_BIN / "ingest"), "load", str(archive), "--encoder", "mnist", "--store", f"edge:{scratch}/store"]
    begun = time.perf_counter()
    loading = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    # Each sample has four numbers: the seconds since the start, and, in MB, the loader's resident memory, the index
    # build's resident memory and the loader's anonymous memory. The index build runs in a child process.
    samples: list[tuple[float, float, float, float]] = []
    while loading.poll() is None:
        indexing = sum(map(process_memory_mb, children(loading.pid)))
        anonymous = process_memory_mb(loading.pid, "RssAnon")
        samples.append((time.perf_counter() - begun, process_memory_mb(loading.pid), indexing, anonymous))
        time.sleep(_SAMPLE_S)
    assert loading.stdout is not None
    print(loading.stdout.read().strip())
    _print_memory(np.array(samples))


def _print_memory(samples: NDArray[np.float64]) -> None:
    """Print how long a load took, and how much memory it used.

    Args:
        samples: One row per sample, (n, 4). The comment in `_million` describes the columns.
    """
    has_index_build = samples[:, 2] > 0
    # the samples before the index build, that is, before the loader had a child process
    storing = samples[: has_index_build.argmax()] if has_index_build.any() else samples
    print(f"whole load                    {samples[-1, 0]:8.0f} s")
    print(f"loader, peak resident         {samples[:, 1].max():8.0f} MB")
    for column, kind in ((1, "resident"), (3, "anonymous")):
        first, last = _at(storing, 60, column), storing[-1, column]
        print(f"  {kind + ', after a minute':<28}{first:8.0f} MB; after the last image {last:.0f} MB")
    print(f"index build, peak resident    {samples[:, 2].max():8.0f} MB")
    print(f"both together, peak           {(samples[:, 1] + samples[:, 2]).max():8.0f} MB")


def _at(samples: NDArray[np.float64], seconds: float, column: int) -> float:
    """Return a column's number in the first sample that was taken `seconds` or more after the start."""
    return float(samples[np.searchsorted(samples[:, 0], seconds).clip(0, len(samples) - 1), column])


def generate(archive: Path, count: int) -> None:
    """Write a .tar of grey 28 × 28 PNGs, each showing three random blobs."""
    chance = np.random.default_rng(1)
    grid = np.arange(28)
    with tarfile.open(archive, "w") as packed:
        for index in range(count):
            pixels = np.zeros((28, 28))
            for x, y, width, height in chance.uniform((4, 4, 1, 1), (24, 24, 5, 5), (3, 4)):
                pixels += np.exp(-(((grid - y) / height) ** 2))[:, None] * np.exp(-(((grid - x) / width) ** 2))
            file = io.BytesIO()
            Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)).save(file, "PNG", compress_level=1)
            member = tarfile.TarInfo(f"{index // 1000:04}/{index:07}.png")
            member.size = file.tell()
            file.seek(0)
            packed.addfile(member, file)


def _ingest(*arguments: str) -> None:
    subprocess.run([_BIN / "ingest", *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    typer.run(main)
