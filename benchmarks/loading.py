"""How fast loading is beside its slowest stage alone, and how much memory it takes: `python -m benchmarks.loading`.

`make bench-load` measures MNIST; `make bench-million` makes a .tar of 1,000,000 pictures and loads it, which takes
about a quarter of an hour on 2 cores and 5 GB of disk.
"""

import io
import os
import platform
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

from benchmarks.memory import children, taken_mb
from encoder_service.encoder import load_encoder
from gallery import GallerySpec, open_store
from ingest.loading.ledger import Ledger
from ingest.loading.pipeline import LoadPass
from ingest.progress import Stages
from ingest.sources import open_source

_BIN = Path(sys.executable).parent
_STAGES = ("read", "prepare", "encode", "store")
_ROUNDS = 3
_SAMPLE_S = 0.2


def main(million: bool = False, count: int = 1_000_000, folder: Path | None = None) -> None:
    """Measure, print."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        if million:
            _million(Path(scratch), count)
        else:
            _mnist(Path(scratch))


def _mnist(scratch: Path) -> None:
    alone: dict[str, list[float]] = {stage: [] for stage in _STAGES}
    together: list[float] = []
    for number in range(_ROUNDS):
        for stage, seconds in _one_after_the_other(f"edge:{scratch}/alone{number}").items():
            alone[stage].append(seconds)
        together.append(_overlapping(f"edge:{scratch}/together{number}"))
    rates = {stage: 60_000 / median(times) for stage, times in alone.items()}
    for stage, rate in rates.items():
        print(f"{stage:<8} alone             {rate:10,.0f} images/s")
    rate = 60_000 / median(together)
    print(f"all four, overlapping      {rate:10,.0f} images/s   {rate / min(rates.values()):.0%} of the slowest alone")
    begun = time.perf_counter()
    _ingest("load", "mnist", "--store", f"edge:{scratch}/whole")
    print(f"ingest load mnist, whole   {time.perf_counter() - begun:10.1f} s, with the index and its verification")


def _one_after_the_other(store: str) -> dict[str, float]:
    """Run each stage over all of MNIST before the next, and return the seconds of each."""
    seconds = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool, _load(store, pool) as load:
        begun = time.perf_counter()
        batches = list(load.read())
        seconds["read"] = time.perf_counter() - begun
        for stage in ("prepare", "encode", "store"):
            begun = time.perf_counter()
            batches = [getattr(load, stage)(batch) for batch in batches]
            seconds[stage] = time.perf_counter() - begun
    return seconds


def _overlapping(store: str) -> float:
    with ThreadPoolExecutor(os.cpu_count()) as pool, _load(store, pool) as load:
        begun = time.perf_counter()
        load.run()
        return time.perf_counter() - begun


class _load:  # noqa: N801 (reads as a statement)
    """MNIST, ready to be loaded into a new gallery."""

    def __init__(self, store: str, pool: ThreadPoolExecutor) -> None:
        self._encoder = load_encoder("mnist")
        made = self._encoder.spec
        self._build = open_store(store).build(GallerySpec("mnist", made.name, made.fingerprint, made.code_size))
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
    print(f"{count:,} pictures, {archive.stat().st_size / 1e9:.1f} GB, made in {time.perf_counter() - begun:.0f} s")
    log = (scratch / "log").open("w+")
    command = [str(_BIN / "ingest"), "load", str(archive), "--encoder", "mnist", "--store", f"edge:{scratch}/store"]
    begun = time.perf_counter()
    loading = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    # seconds, MB of the loader, MB of the index build, MB of the loader without files
    samples: list[tuple[float, float, float, float]] = []
    while loading.poll() is None:
        indexing = sum(map(taken_mb, children(loading.pid)))
        own = taken_mb(loading.pid, "RssAnon")
        samples.append((time.perf_counter() - begun, taken_mb(loading.pid), indexing, own))
        time.sleep(_SAMPLE_S)
    assert loading.stdout is not None
    print(loading.stdout.read().strip())
    at = np.array(samples)
    filling = at[at[:, 2] == 0]
    last_fill = filling[filling[:, 0] < at[at[:, 2] > 0][0, 0]] if (at[:, 2] > 0).any() else filling
    print(f"whole load                    {at[-1, 0]:8.0f} s")
    print(f"loader, peak resident         {at[:, 1].max():8.0f} MB")
    for column, what in ((1, "resident"), (3, "without files")):
        first, last = _at(last_fill, 60, column), last_fill[-1, column]
        print(f"  {what + ', after a minute':<28}{first:8.0f} MB, with the last one stored {last:.0f}")
    print(f"index build, peak resident    {at[:, 2].max():8.0f} MB")
    print(f"both together, peak           {(at[:, 1] + at[:, 2]).max():8.0f} MB")


def _at(samples: NDArray[np.float64], seconds: float, column: int) -> float:
    return float(samples[np.searchsorted(samples[:, 0], seconds).clip(0, len(samples) - 1), column])


def generate(archive: Path, count: int) -> None:
    """Write a .tar of grey 28 × 28 PNGs, each of three random strokes."""
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
