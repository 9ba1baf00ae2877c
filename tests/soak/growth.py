"""Growth of a gallery through a service, and then its decline: `python -m tests.soak.growth`.

60,000 indexed images, then 100,000 more at 500 a second, then these are deleted at the same speed, while one client
searches all the time. The service compacts the gallery meanwhile. Takes a quarter of an hour.
"""

import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import typer
from PIL import Image

from benchmarks.table import machine
from encoder_service.client import Client
from encoder_service.writer import NewImage
from gallery.errors import LookalikeError
from tests.soak.running import Running, digits, judge, pngs, serving, store

# Seconds of each window whose median is judged.
_WINDOW_S = 5.0
# Pause between two searches, in seconds.
_PAUSE_S = 0.01
# Images per DeleteImages.
_DELETE_COUNT = 100
# Number of images that are added and deleted before anything is measured.
_WARM_COUNT = 2000
# Largest p50 of a window while the gallery changes, and after it has settled, as multiples of the p50 before.
_MAX_WHILE, _MAX_AFTER = 3.0, 1.5
# Largest disk space and anonymous memory after everything has been deleted, as multiples of those before. A fifth of
# the images may be deleted ones, whose space the next compaction would give back.
_MAX_LEFT = 1.3


@dataclass(frozen=True, slots=True)
class _Search:
    """One search: the monotonic time at which it ended, and its duration in ms."""

    at_s: float
    took_ms: float


class _Searcher:
    """A thread that searches all the time."""

    def __init__(self, service: Running) -> None:
        self.searches: list[_Search] = []
        self.failures: list[str] = []
        self._address = service.address
        self._pictures = pngs(500)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "_Searcher":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        self._thread.join()

    def p50(self, begin: float, end: float) -> float:
        """Return the median of the searches between two monotonic times, in ms."""
        return median(self._took(begin, end))

    def windows(self, begin: float, end: float) -> Iterator[tuple[float, float, float]]:
        """Yield the seconds since `begin`, the p50 and the p99 in ms of each window."""
        for start in np.arange(begin, end - _WINDOW_S, _WINDOW_S):
            took = self._took(start, start + _WINDOW_S)
            yield start - begin, median(took), quantiles(took, n=100)[98]

    def _took(self, begin: float, end: float) -> list[float]:
        return [search.took_ms for search in self.searches if begin <= search.at_s < end]

    def _run(self) -> None:
        with Client(self._address) as client:
            for picture in itertools.cycle(self._pictures):
                if self._stop.wait(_PAUSE_S):
                    return
                begun = time.monotonic()
                try:
                    client.search(picture, "mnist")
                    now = time.monotonic()
                    self.searches.append(_Search(now, (now - begun) * 1e3))
                except LookalikeError as error:
                    self.failures.append(f"search: {error}")


def main(indexed: int = 60_000, changed: int = 100_000, rate: int = 500, settle_s: float = 120.0) -> None:
    """Let a gallery grow and decline, and judge the searches meanwhile."""
    print(machine())
    with store(indexed) as url, serving(url, "--log-level", "warning") as service, _Searcher(service) as searcher:
        with Client(service.address, timeout_s=60) as client:  # the first calls need more time and memory than others
            searcher.failures.extend([*_add(client, _WARM_COUNT, rate), *_delete(client, _WARM_COUNT, rate)])
        begun = time.monotonic()
        time.sleep(4 * _WINDOW_S)
        before = searcher.p50(begun, time.monotonic())
        disk, memory = _disk_mb(url), service.memory_mb("RssAnon")
        print(f"{indexed:,} indexed: p50 {before:.2f} ms, {disk:.0f} MB on disk, {memory:.0f} MB of memory")
        passed = []
        for name, change in (("added", _add), ("deleted", _delete)):
            begun = time.monotonic()
            with Client(service.address, timeout_s=60) as client:
                searcher.failures.extend(change(client, changed, rate))
                ended = time.monotonic()
                time.sleep(settle_s)
                spec = client.gallery("mnist")
            print(f"{changed:,} {name} in {ended - begun:.0f} s; then v{spec.version} with {spec.count:,} images")
            for at_s, p50, p99 in searcher.windows(begun, time.monotonic()):
                print(f"  {at_s:5.0f} s  p50 {p50:6.2f} ms  p99 {p99:7.2f} ms")
            worst = max(p50 for _, p50, _ in searcher.windows(begun, time.monotonic())) / before
            after = searcher.p50(time.monotonic() - 2 * _WINDOW_S, time.monotonic()) / before
            passed += [
                judge(f"largest p50 while {name}: {worst:.1f} times that before", worst <= _MAX_WHILE),
                judge(f"p50 {settle_s:.0f} s later: {after:.1f} times that before", after <= _MAX_AFTER),
                judge(f"failed calls: {len(searcher.failures)}", not searcher.failures),
            ]
        disk_after, memory_after = _disk_mb(url), service.memory_mb("RssAnon")
        passed += [
            judge(f"disk: {disk:.0f} MB before, {disk_after:.0f} MB after", disk_after <= _MAX_LEFT * disk),
            judge(f"memory: {memory:.0f} MB before, {memory_after:.0f} MB after", memory_after <= _MAX_LEFT * memory),
        ]
        for line in searcher.failures[:5]:
            print(f"  {line}")
    sys.exit(not all(passed))


def _add(client: Client, count: int, rate: int) -> Iterator[str]:
    """Add images at the given number a second. Yield a line for each failure."""
    try:
        for answer in client.add(_paced(count, rate), "mnist"):
            if answer is not False:
                yield f"add: {answer}"
    except LookalikeError as error:
        yield f"add: {error}"


def _delete(client: Client, count: int, rate: int) -> Iterator[str]:
    """Delete the images that `_add` has added, at the given number a second. Yield a line for each failure."""
    begun = time.monotonic()
    for start in range(0, count, _DELETE_COUNT):
        _sleep_until(begun + start / rate)
        keys = [f"grown/{index}" for index in range(start, min(start + _DELETE_COUNT, count))]
        try:
            if (deleted := client.delete(keys, "mnist")) != len(keys):
                yield f"delete: expected {len(keys)}, got {deleted}"
        except LookalikeError as error:
            yield f"delete: {error}"


def _paced(count: int, rate: int) -> Iterator[NewImage]:
    """Yield test digits that are rotated and shifted at random, so that all are different."""
    pictures, chance = digits(5000), random.Random(17)
    begun = time.monotonic()
    for index in range(count):
        if index % 25 == 0:
            _sleep_until(begun + index / rate)
        picture = pictures[index % len(pictures)].rotate(
            chance.uniform(-15, 15), Image.Resampling.BILINEAR, translate=(chance.randint(-1, 1), chance.randint(-1, 1))
        )
        yield NewImage(f"grown/{index}", picture, str(index % 10))


def _sleep_until(monotonic_s: float) -> None:
    time.sleep(max(0.0, monotonic_s - time.monotonic()))


def _disk_mb(url: str) -> float:
    done = subprocess.run(["du", "-s", "-B1", Path(url.removeprefix("edge:"))], capture_output=True, check=True)
    return int(done.stdout.split()[0]) / 1e6


if __name__ == "__main__":
    typer.run(main)
