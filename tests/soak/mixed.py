"""Ten minutes of mixed traffic, with swaps, adds and deletes: `python -m tests.soak.mixed`."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from statistics import median

import typer

from encoder_service.client import Client
from encoder_service.searcher import Key, SearchRequest
from encoder_service.writer import NewImage
from gallery import SearchOptions
from gallery.errors import LookalikeError
from tests.soak.running import BIN, Running, digits, judge, load, machine, pngs, serving, store

_WARM_S = 120
_SAMPLE_S = 5
_REBUILD_EVERY_S = 15


def main(seconds: int = 600) -> None:
    """Send it, and see what fails or grows."""
    print(machine())
    with store(5000) as url:
        load("mnist/test", url, "--name", "grown", "--limit", "2000")
        with serving(url) as service:
            good = _mixed(service, seconds)
    sys.exit(not good)


def _mixed(service: Running, seconds: int) -> bool:
    ends = time.monotonic() + seconds
    done: Counter[str] = Counter()
    failed: list[str] = []
    files, pictures = pngs(200), digits(50)

    def repeat(name: str, pause_s: float, act: Callable[[Client, int], object]) -> threading.Thread:
        def run() -> None:
            with Client(service.address, timeout_s=30) as client:
                turn = 0
                while time.monotonic() < ends:
                    try:
                        act(client, turn)
                        done[name] += 1
                    except (LookalikeError, AssertionError, subprocess.CalledProcessError) as error:
                        failed.append(f"{name}: {error}")
                    turn += 1
                    time.sleep(pause_s)

        thread = threading.Thread(target=run, name=name)
        thread.start()
        return thread

    def search(client: Client, turn: int) -> None:
        options = SearchOptions(with_thumbnails=turn % 3 == 0, labels=("1", "7") if turn % 5 == 0 else ())
        subject = Key(f"mnist/train/{turn % 5000}") if turn % 4 == 0 else files[turn % len(files)]
        assert client.search(subject, "mnist", options).hits

    def batch(client: Client, turn: int) -> None:
        assert len(client.search_batch([SearchRequest(picture) for picture in pictures], "grown")) == len(pictures)

    def stream(client: Client, turn: int) -> None:
        answers = list(client.encode_stream([*files[:20], b"rubbish"]))
        assert [isinstance(answer, LookalikeError) for answer in answers] == [False] * 20 + [True]

    def come_and_go(client: Client, turn: int) -> None:
        keys = [f"new/{turn}/{index}" for index in range(20)]
        new = [NewImage(key, files[(turn + index) % len(files)]) for index, key in enumerate(keys)]
        assert list(client.add(new, "grown")) == [False] * len(keys)
        assert client.delete(keys, "grown") == len(keys)

    def rebuild(client: Client, turn: int) -> None:
        before = client.gallery("mnist").version
        load("mnist", service.store, "--limit", "5000", "--rebuild")
        limit = time.monotonic() + 5
        while client.gallery("mnist").version == before:
            assert time.monotonic() < limit, "the service did not follow"
            time.sleep(0.05)
        subprocess.run([BIN / "ingest", "clean", "mnist", "--store", service.store], check=True, capture_output=True)

    threads = [repeat("search", 0.01, search) for _ in range(3)]
    threads += [repeat("batch", 0.1, batch), repeat("stream", 0.1, stream)]
    # Edge keeps of a deleted image 0.8 KB, half of it in files, until the gallery is built anew
    threads.append(repeat("add and delete", 4.0, come_and_go))
    threads.append(repeat("rebuild", _REBUILD_EVERY_S, rebuild))
    samples: list[tuple[float, float, float, int]] = []
    begun = time.monotonic()
    while time.monotonic() < ends:
        time.sleep(_SAMPLE_S)
        memory = service.memory_mb(), service.memory_mb("RssAnon")
        samples.append((time.monotonic() - begun, *memory, service.file_count()))
    for thread in threads:
        thread.join()
    print(", ".join(f"{count:,} × {name}" for name, count in done.items()))
    warm = [sample for sample in samples if sample[0] > min(_WARM_S, seconds / 3)]
    part = max(1, len(warm) // 5)
    (first, last), (own, own_still), (opened, open_still) = (
        (median(sample[field] for sample in warm[:part]), median(sample[field] for sample in warm[-part:]))
        for field in (1, 2, 3)
    )
    for line in failed[:5]:
        print(f"  {line}")
    return all(
        [
            judge(f"failed calls: {len(failed)}", not failed),
            judge(f"resident memory after warm-up: {first:.0f} MB, at the end {last:.0f} MB", last <= 1.05 * first),
            judge(f"of it without files: {own:.0f} MB, at the end {own_still:.0f} MB", own_still <= 1.05 * own),
            judge(f"open files after warm-up: {opened:.0f}, at the end {open_still:.0f}", open_still <= opened + 2),
        ]
    )


if __name__ == "__main__":
    typer.run(main)
