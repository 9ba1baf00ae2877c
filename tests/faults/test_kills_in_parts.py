"""SIGKILL at 25 moments of a load in several parts, each followed by the same command."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from gallery import open_store
from tests.faults.test_kills import after, appears

COUNT = 3000
LOAD = [sys.executable, "-m", "tests.small_parts", "load", "mnist", "--limit", str(COUNT)]
LOAD += ["--encoder", "seed", "--memory", "1500KB"]
# Files that exist while a part is sorted, while parts are joined, and while the version is published.
WRITTEN = ("v*/shard/temp_segments/*", "v*/manifest.json.part-*", "CURRENT.part-*")
# Number of lines that a load prints until it joins the parts.
LINES = 5


@pytest.mark.slow
def test_after_each_of_25_kills_the_same_load_completes_the_gallery(tmp_path: Path) -> None:
    chance = random.Random(25)
    printed = tmp_path / "printed"
    moments: list[Callable[[Path], bool]] = [appears(pattern) for pattern in WRITTEN for _ in range(3)]
    for number in range(16):
        delay_s = chance.uniform(0, 0.4)
        moments.append(partial(is_due, printed=printed, lines=number % (LINES + 1), due=after(delay_s)))
    chance.shuffle(moments)
    killed: Counter[str] = Counter()
    for number, moment in enumerate(moments):
        # a load into a store may end after it was killed four times, and is then killed once more in a rebuild
        home = tmp_path / str(number // 5)
        store, options = f"edge:{home}", ["--rebuild"] if number % 5 == 4 else []
        if options:
            finish(store)
            check(store, 1)
            assert not open_store(store).differences("mnist")
        with printed.open("w") as file:
            process = subprocess.Popen([*LOAD, *options, "--store", store], stdout=subprocess.DEVNULL, stderr=file)
            while process.poll() is None and not moment(home / "mnist"):
                time.sleep(0.0005)
            process.send_signal(signal.SIGKILL)
            process.wait()
        last = (printed.read_text().splitlines() or ["starting"])[-1].split(" ")[0].rstrip(":")
        killed[last if process.returncode else "already done"] += 1
        if options:
            check(store, 1)  # the live version is whole while the rebuilt one is not
            finish(store, *options)
            check(store, 2)
            assert not open_store(store).differences("mnist")
    print(f"killed while {dict(killed)}")
    assert killed["already done"] < 5
    assert killed["sorting"] and killed["indexing"]


def is_due(home: Path, *, printed: Path, lines: int, due: Callable[[Path], bool]) -> bool:
    """Return whether the load has printed that many lines, and the delay after them has passed."""
    return printed.read_text().count("\n") >= lines and due(home)


def finish(store: str, *options: str) -> None:
    done = subprocess.run([*LOAD, *options, "--store", store], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check(store: str, least_version: int) -> None:
    opened = open_store(store)
    assert opened.spec("mnist").version >= least_version
    with closing(opened.open("mnist")) as gallery:
        keys = [entry.key for batch in gallery.scroll() for entry in batch]
    assert sorted(keys) == sorted(f"mnist/train/{index}" for index in range(COUNT))
