"""Ten minutes of mixed traffic, with rebuilds, adds and deletes: `python -m tests.soak.mixed`."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import typer

from benchmarks.table import machine
from encoder_service.client import Client
from encoder_service.searcher import Key, SearchRequest
from encoder_service.writer import NewImage
from gallery import SearchOptions
from gallery.errors import LookalikeError
from tests.soak.running import BIN, Running, digits, judge, load, pngs, serving, store

# Time until memory and open files count, in seconds; a third of a shorter run.
_WARM_S = 120
# Time between two samples, in seconds.
_SAMPLE_S = 5
# Pause between two rebuilds of a gallery, in seconds.
_REBUILD_EVERY_S = 15


@dataclass(frozen=True, slots=True)
class _Sample:
    """The state of the service at one moment: resident memory, anonymous memory, and open files."""

    at_s: float
    resident_mb: float
    anonymous_mb: float
    file_count: int


@dataclass(slots=True)
class _Outcomes:
    """The number of finished actions by name, and a line for each failed one."""

    finished: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


def main(seconds: int = 600) -> None:
    """Send mixed traffic, and report failed calls and growth."""
    print(machine())
    with store(5000) as url:
        load("mnist/test", url, "--name", "grown", "--limit", "2000")
        with serving(url) as service:
            outcomes, samples = _run(service, seconds)
    sys.exit(not _judge(outcomes, [sample for sample in samples if sample.at_s > min(_WARM_S, seconds / 3)]))


def _run(service: Running, seconds: int) -> tuple[_Outcomes, list[_Sample]]:
    """Run all actions at the same time, and sample the service meanwhile."""
    traffic = _Traffic(service)
    pauses_s: list[tuple[str, float, Callable[[Client, int], None]]] = [
        *[("search", 0.01, traffic.search)] * 3,
        ("batch", 0.1, traffic.search_batch),
        ("stream", 0.1, traffic.encode_stream),
        # Edge keeps 0.8 KB of each deleted image, half of it in files, until the gallery is rebuilt
        ("add and delete", 4.0, traffic.add_and_delete),
        ("rebuild", _REBUILD_EVERY_S, traffic.rebuild),
    ]
    begun = time.monotonic()
    outcomes, samples = _Outcomes(), []
    threads = [
        threading.Thread(target=_repeat, args=(service, name, pause_s, act, begun + seconds, outcomes), name=name)
        for name, pause_s, act in pauses_s
    ]
    for thread in threads:
        thread.start()
    while time.monotonic() < begun + seconds:
        time.sleep(_SAMPLE_S)
        memory = service.memory_mb(), service.memory_mb("RssAnon")
        samples.append(_Sample(time.monotonic() - begun, *memory, service.file_count()))
    for thread in threads:
        thread.join()
    return outcomes, samples


def _repeat(
    service: Running,
    name: str,
    pause_s: float,
    act: Callable[[Client, int], None],
    end: float,
    outcomes: _Outcomes,
) -> None:
    """Repeat an action with a client of its own until the end, a time of `time.monotonic`."""
    with Client(service.address, timeout_s=30) as client:
        turn = 0
        while time.monotonic() < end:
            try:
                act(client, turn)
                outcomes.finished[name] += 1
            except (LookalikeError, AssertionError, subprocess.CalledProcessError) as error:
                outcomes.failed.append(f"{name}: {error}")
            turn += 1
            time.sleep(pause_s)


class _Traffic:
    """The actions. Each takes a client and the number of its turn, and asserts that the answer is right."""

    def __init__(self, service: Running) -> None:
        self._store = service.store
        self._files, self._pictures = pngs(200), digits(50)

    def search(self, client: Client, turn: int) -> None:
        options = SearchOptions(with_thumbnails=turn % 3 == 0, labels=("1", "7") if turn % 5 == 0 else ())
        subject = Key(f"mnist/train/{turn % 5000}") if turn % 4 == 0 else self._files[turn % len(self._files)]
        assert client.search(subject, "mnist", options).hits

    def search_batch(self, client: Client, _: int) -> None:
        results = client.search_batch([SearchRequest(picture) for picture in self._pictures], "grown")
        assert len(results) == len(self._pictures)

    def encode_stream(self, client: Client, _: int) -> None:
        answers = list(client.encode_stream([*self._files[:20], b"rubbish"]))
        assert [isinstance(answer, LookalikeError) for answer in answers] == [False] * 20 + [True]

    def add_and_delete(self, client: Client, turn: int) -> None:
        keys = [f"new/{turn}/{index}" for index in range(20)]
        new = [NewImage(key, self._files[(turn + index) % len(self._files)]) for index, key in enumerate(keys)]
        assert list(client.add(new, "grown")) == [False] * len(keys)
        assert client.delete(keys, "grown") == len(keys)

    def rebuild(self, client: Client, _: int) -> None:
        before = client.gallery("mnist").version
        load("mnist", self._store, "--limit", "5000", "--rebuild")
        deadline = time.monotonic() + 5
        while client.gallery("mnist").version == before:
            assert time.monotonic() < deadline, "the service did not switch to the new version within 5 s"
            time.sleep(0.05)
        subprocess.run([BIN / "ingest", "clean", "mnist", "--store", self._store], check=True, capture_output=True)


def _judge(outcomes: _Outcomes, warm: list[_Sample]) -> bool:
    """Compare the last fifth of the samples after the warm-up with the first."""
    print(", ".join(f"{count:,} × {name}" for name, count in outcomes.finished.items()))
    for line in outcomes.failed[:5]:
        print(f"  {line}")
    fifth = max(1, len(warm) // 5)

    def growth(figure: Callable[[_Sample], float]) -> tuple[float, float]:
        return median(map(figure, warm[:fifth])), median(map(figure, warm[-fifth:]))

    resident, resident_end = growth(lambda sample: sample.resident_mb)
    anonymous, anonymous_end = growth(lambda sample: sample.anonymous_mb)
    files, files_end = growth(lambda sample: sample.file_count)
    return all(
        [
            judge(f"failed calls: {len(outcomes.failed)}", not outcomes.failed),
            judge(
                f"resident memory after warm-up {resident:.0f} MB, at the end {resident_end:.0f} MB",
                resident_end <= 1.05 * resident,
            ),
            judge(
                f"anonymous memory after warm-up {anonymous:.0f} MB, at the end {anonymous_end:.0f} MB",
                anonymous_end <= 1.05 * anonymous,
            ),
            judge(f"open files after warm-up {files:.0f}, at the end {files_end:.0f}", files_end <= files + 2),
        ]
    )


if __name__ == "__main__":
    typer.run(main)
