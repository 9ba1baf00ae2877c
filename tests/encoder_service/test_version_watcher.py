"""The thread that watches a store, over a fake one."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from encoder_service import version_watcher
from encoder_service.version_watcher import VersionWatcher
from gallery import GallerySpec
from gallery.errors import GalleryNotFoundError, LookalikeError, StoreUnreachableError
from tests.waiting import eventually

V1 = GallerySpec("digits", "seed", "0" * 64, 128, version=1, count=400)


class FakeStore:
    """A store of one gallery, which can be made to fail."""

    url = "fake:"

    def __init__(self) -> None:
        self.live: GallerySpec | None = V1
        self.outage: LookalikeError | None = None
        self.damage: list[str] = []
        self.comparisons = 0

    def check(self) -> None:
        if self.outage:
            raise self.outage

    def spec(self, name: str) -> GallerySpec:
        assert name == "digits"
        if self.live is None:
            raise GalleryNotFoundError("no gallery 'digits'")
        return self.live

    def differences(self, name: str) -> list[str]:
        self.comparisons += 1
        return self.damage


class Watched:
    """A watcher over a fake store, with what it has reported and opened."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.reports: list[bool] = []
        self.open = [V1]
        store: Any = self.store
        self.is_searchable = True
        self.watcher = VersionWatcher(
            store, lambda: self.open, self._move_to, self._forget, lambda: self.is_searchable, self.reports.append
        )

    def _move_to(self, spec: GallerySpec) -> None:
        self.open = [spec]

    def _forget(self, name: str) -> None:
        self.open = [spec for spec in self.open if spec.name != name]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(version_watcher, "_INTERVAL_S", 0.01)
    watched = Watched()
    before = watcher_threads()  # services of other tests have watchers, too
    watched.watcher.start()
    yield watched
    watched.watcher.stop()
    assert watcher_threads() == before


def watcher_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "version-watcher"]


wait_until = partial(eventually, within_s=10, every_s=0.005)


def test_a_newer_version_is_opened_once_it_has_images(watched: Watched) -> None:
    watched.store.live = replace(V1, version=2, count=0)
    time.sleep(0.1)
    assert watched.open == [V1]
    watched.store.live = replace(V1, version=2)
    wait_until(lambda: watched.open == [watched.store.live])


def test_a_version_that_a_load_has_extended_is_opened_again(watched: Watched) -> None:
    watched.store.live = replace(V1, published_at="2030-01-01T00:00:00Z")
    wait_until(lambda: watched.open[0].published_at == "2030-01-01T00:00:00Z")


def test_a_gallery_that_is_gone_is_closed(watched: Watched) -> None:
    watched.store.live = None
    wait_until(lambda: watched.open == [])


def test_a_damaged_version_is_not_read_again_for_a_while_but_the_next_one_is(watched: Watched) -> None:
    watched.store.damage = ["shard/vectors.dat is missing"]
    watched.store.live = replace(V1, version=2)
    wait_until(lambda: watched.store.comparisons == 1)
    time.sleep(0.1)
    assert (watched.open, watched.store.comparisons) == ([V1], 1)
    watched.store.damage = []
    watched.store.live = replace(V1, version=3)
    wait_until(lambda: watched.open == [watched.store.live])


def test_an_outage_is_reported_and_calls_fail_without_asking_the_store(watched: Watched) -> None:
    watched.watcher.check_store()
    watched.store.outage = StoreUnreachableError("no server")
    wait_until(lambda: watched.reports == [True, False])
    for _ in range(2):
        with pytest.raises(StoreUnreachableError, match="no server") as raised:
            watched.watcher.check_store()
        assert raised.value is not watched.store.outage
    watched.store.outage = None
    wait_until(lambda: watched.reports == [True, False, True])
    watched.watcher.check_store()


def test_galleries_that_can_no_longer_be_opened_are_reported(watched: Watched) -> None:
    assert watched.reports == [True]
    watched.is_searchable = False
    wait_until(lambda: watched.reports == [True, False])
    watched.watcher.check_store()
    watched.is_searchable = True
    wait_until(lambda: watched.reports == [True, False, True])


def test_a_version_that_is_open_already_is_not_reported_as_bad(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    def moved_and_modified(name: str) -> list[str]:
        watched.open = [replace(V1, version=2)]
        return ["shard/vectors.dat: its content has changed"]

    watched.store.differences = moved_and_modified  # type: ignore[method-assign]
    watched.store.live = replace(V1, version=2)
    wait_until(lambda: watched.open == [watched.store.live])
    time.sleep(0.1)
    assert "stays at" not in caplog.text


def test_the_watcher_survives_an_unexpected_error(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(watched.store, "spec", lambda name: 1 / 0)
        time.sleep(0.1)
    watched.store.live = replace(V1, version=2)
    wait_until(lambda: watched.open == [watched.store.live])
