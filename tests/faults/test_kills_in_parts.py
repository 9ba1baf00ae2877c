"""SIGKILL at 25 moments of a load in several parts, each followed by the same command."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from gallery import open_store
from tests.faults.test_kills import after, appears

COUNT = 3000
LOAD = [sys.executable, "-m", "tests.small_parts", "load", "mnist", "--limit", str(COUNT)]
LOAD += ["--encoder", "seed", "--memory", "1500KB"]
# Files that exist while a part is sorted, while parts are joined, and while the version is published.
WRITTEN = (
    "v*/shard/temp_segments/*",
    "v*/shard/segments/*/vector_index/hnsw_config.json",
    "v*/manifest.json.part-*",
    "CURRENT.part-*",
)


@pytest.mark.slow
def test_after_each_of_25_kills_the_same_load_completes_the_gallery(tmp_path: Path) -> None:
    chance = random.Random(25)
    begun = time.monotonic()
    finish(f"edge:{tmp_path / 'clean'}")
    load_s = time.monotonic() - begun
    moments: list[Callable[[Path], bool]] = [after(chance.uniform(0.2, 0.95) * load_s) for _ in range(17)]
    moments += [appears(pattern) for pattern in WRITTEN for _ in range(2)]
    chance.shuffle(moments)
    killed: Counter[str] = Counter()
    for number, moment in enumerate(moments):
        # each store is killed several times before its load may end, and every second load is a rebuild
        store, options = f"edge:{tmp_path / str(number // 5)}", ("--rebuild",) if number % 5 == 4 else ()
        if options:
            finish(store)
            check(store, 1)
            assert not open_store(store).differences("mnist")
        process = subprocess.Popen(
            [*LOAD, *options, "--store", store], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and not moment(tmp_path / str(number // 5) / "mnist"):
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        killed[(process.communicate()[1].splitlines() or ["starting"])[-1].split(" ")[0].rstrip(":")] += 1
        if options:
            check(store, 1)  # the live version is whole while the rebuilt one is not
            finish(store, *options)
            check(store, 2)
            assert not open_store(store).differences("mnist")
    print(f"killed while {dict(killed)}")


def finish(store: str, *options: str) -> None:
    done = subprocess.run([*LOAD, *options, "--store", store], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check(store: str, least_version: int) -> None:
    opened = open_store(store)
    assert opened.spec("mnist").version >= least_version
    with closing(opened.open("mnist")) as gallery:
        keys = [entry.key for batch in gallery.scroll() for entry in batch]
    assert sorted(keys) == sorted(f"mnist/train/{index}" for index in range(COUNT))
