"""SIGKILL at 25 moments of a load, each followed by the same command. A service answers during the rebuilds."""

import json
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from encoder_service.client import Client
from encoder_service.searcher import Key
from gallery import open_store
from tests.commands import BIN, Command

COUNT = 6000
LOAD = ("load", "mnist", "--limit", str(COUNT))
# Files that exist for moments too short to hit by chance: the load is killed when one appears.
WRITTEN = ("v*/gallery.json.part-*", "v*/manifest.json.part-*", "CURRENT.part-*")


def codes(store: str) -> dict[str, NDArray[np.float32]]:
    with closing(open_store(store).open("mnist")) as gallery:
        entries = [entry for batch in gallery.scroll() for entry in batch]
        assert len(entries) == gallery.count()
    return {entry.key: entry.code for entry in entries}


@pytest.mark.slow
def test_after_each_of_25_kills_the_same_command_completes_the_gallery(
    command_process: Command, tmp_path: Path
) -> None:
    clean, store = f"edge:{tmp_path / 'clean'}", f"edge:{tmp_path / 'store'}"
    begun = time.monotonic()
    assert command_process("ingest", *LOAD, "--store", clean).returncode == 0
    load_s = time.monotonic() - begun
    expected = codes(clean)
    chance = random.Random(25)
    moments: list[Callable[[Path], bool]] = [after(chance.uniform(0.35, 0.95) * load_s) for _ in range(19)]
    moments += [appears(pattern) for pattern in WRITTEN for _ in range(2)]
    chance.shuffle(moments)
    killed: Counter[str] = Counter()

    for moment in moments[:6]:
        killed[kill(store, (), moment)] += 1
        finish(command_process, store)
        assert_same(codes(store), expected)
        assert command_process("ingest", "drop", "mnist", "--yes", "--store", store).returncode == 0
    finish(command_process, store)
    with Service(store) as service:
        for moment in moments[6:]:
            killed[kill(store, ("--rebuild",), moment)] += 1
            finish(command_process, store, "--rebuild")
            assert command_process("ingest", "clean", "--store", store).returncode == 0
    assert service.failures == []
    assert service.answers > 100
    assert_same(codes(store), expected)
    print(f"killed while {dict(killed)}; {service.answers:,} searches answered meanwhile")


def assert_same(actual: dict[str, NDArray[np.float32]], expected: dict[str, NDArray[np.float32]]) -> None:
    assert actual.keys() == expected.keys()
    for key, code in expected.items():
        np.testing.assert_allclose(actual[key], code, atol=1e-6)


def finish(command_process: Command, store: str, *options: str) -> None:
    done = command_process("ingest", *LOAD, *options, "--store", store, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["count"] == COUNT
    assert not open_store(store).differences("mnist")


def after(delay_s: float) -> Callable[[Path], bool]:
    due = 0.0

    def is_due(home: Path) -> bool:
        nonlocal due
        due = due or time.monotonic() + delay_s
        return time.monotonic() > due

    return is_due


def appears(pattern: str) -> Callable[[Path], bool]:
    return lambda home: any(home.glob(pattern))


def kill(store: str, options: tuple[str, ...], moment: Callable[[Path], bool]) -> str:
    """Start a load, kill it at the moment, and return the stage that it was in."""
    home = Path(store.removeprefix("edge:")) / "mnist"
    process = subprocess.Popen(
        [BIN / "ingest", *LOAD, *options, "--store", store],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not moment(home):
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    if process.returncode == 0:
        return "already done"
    loading = any(home.glob("v*/ledger.sqlite-wal"))
    return (err.splitlines() or ["loading" if loading else "starting"])[-1].split(" ")[0].rstrip(":")


class Service:
    """A running service with a client that searches all the time."""

    def __init__(self, store: str) -> None:
        self._process = subprocess.Popen(
            [BIN / "encoder-service", "serve", "--port", "0", "--store", store],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self._address = self._process.stdout.readline().removeprefix("serving on ").strip()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.failures: list[str] = []
        self.answers = 0

    def _ask(self) -> None:
        with Client(self._address) as client:
            while not self._stop.wait(0.02):
                try:
                    assert len(client.search(Key("mnist/train/7"), "mnist").hits) == 5
                    self.answers += 1
                except Exception as error:
                    self.failures.append(str(error))

    def __enter__(self) -> "Service":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        self._thread.join()
        self._process.terminate()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()
