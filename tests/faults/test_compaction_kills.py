"""SIGKILL of a service at moments of a compaction, while images are added. The next service goes on."""

import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from PIL import Image

from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.writer import NewImage
from gallery import Store, open_store
from gallery.errors import LookalikeError
from tests.commands import BIN
from tests.digits import build

# Moments, by the files of the gallery: each is true from some moment of a compaction on.
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "begun": lambda home: any(home.glob("v*/REPLACES")),
    "copying": lambda home: any(home.glob("v*/shard/edge_config.json")) and len(list(home.glob("v*/shard"))) > 1,
    "published": lambda home: any((marker.parent / "manifest.json").exists() for marker in home.glob("v*/REPLACES")),
    "repeating": lambda home: any((marker.parent / "ADDED").exists() for marker in home.glob("v*/REPLACES")),
    "live": lambda home: any(marker.parent.name == current(home) for marker in home.glob("v*/REPLACES")),
    "removing": lambda home: any(home.glob("v*.part")) and not any(home.glob("v*.part/REPLACES")),
}


def current(home: Path) -> str:
    return (home / "CURRENT").read_text().strip()


def test_after_a_kill_during_a_compaction_each_key_is_there_once(
    store_url: str, encoder: Encoder, queries: list[Image.Image]
) -> None:
    run(store_url, encoder, queries, ["copying", "repeating", "live"])


@pytest.mark.slow
def test_after_each_of_25_kills_during_compactions_each_key_is_there_once(
    store_url: str, encoder: Encoder, queries: list[Image.Image]
) -> None:
    run(store_url, encoder, queries, [*MOMENTS] * 2 + ["later"] * 13)


def run(store_url: str, encoder: Encoder, queries: list[Image.Image], moments: list[str]) -> None:
    store = open_store(store_url)
    build(store, encoder)
    expected = {f"digits/train/{index}" for index in range(400)}
    chance = random.Random(25)
    killed: Counter[str] = Counter()
    for turn, moment in enumerate(moments):
        with Service(store_url) as service:
            adding = threading.Thread(target=service.add, args=(f"{turn}", queries, expected))
            adding.start()
            killed[service.kill(store, moment, chance.uniform(0, 4))] += 1
            adding.join()
        assert_whole(store, expected)
    print(f"killed while {dict(killed)}")


def assert_whole(store: Store, expected: set[str]) -> None:
    with closing(store.open("digits")) as gallery:
        keys = [entry.key for batch in gallery.scroll() for entry in batch]
        assert len(keys) == len(set(keys)) == gallery.count()
        assert expected <= set(keys)
        expected.update(keys)  # images that were stored, but not acknowledged before the kill
    assert store.differences("digits") == []
    home = store.local_folder("digits").parent
    wait_for(lambda: [path.name for path in home.glob("v*")] == [current(home)], store)


def wait_for(is_clean: Callable[[], bool], store: Store) -> None:
    """Wait until nothing of the killed compaction is left: its processes end a moment after the service."""
    deadline = time.monotonic() + 30
    while not is_clean():
        assert time.monotonic() < deadline
        time.sleep(0.1)
        store.open("digits").close()


class Service:
    """A service in a process of its own."""

    def __init__(self, store_url: str) -> None:
        command = [str(BIN / "encoder-service"), "serve", "--port", "0", "--store", store_url, "--encoder", "seed"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        self._address = self._process.stdout.readline().split()[-1]

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.kill()
        self._process.communicate()

    def add(self, name: str, queries: list[Image.Image], acknowledged: set[str]) -> None:
        """Add images until the service is killed. Put the keys of acknowledged images into a set."""

        def images() -> Iterator[NewImage]:
            for index in range(10_000):
                yield NewImage(f"{name}/{index}", queries[index % len(queries)])
                time.sleep(0.005)

        with Client(self._address) as client, suppress(LookalikeError):
            for index, answer in enumerate(client.add(images(), "digits")):
                assert answer is False
                acknowledged.add(f"{name}/{index}")

    def kill(self, store: Store, moment: str, later_s: float) -> str:
        """Begin a compaction, kill the service at a moment of it, and return the moment."""
        home = store.local_folder("digits").parent
        due, deadline = time.monotonic() + later_s, time.monotonic() + 60

        def is_due(home: Path) -> bool:
            return time.monotonic() > due

        has_come = MOMENTS.get(moment, is_due)
        with Client(self._address) as client:
            while not has_come(home):
                if not any(home.glob("v*/REPLACES")):  # the moment was too short to be seen: wait for the next one
                    next(client.compact("digits"))
                if time.monotonic() > deadline:
                    moment = "never"
                    break
                time.sleep(0.0005)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        return moment
