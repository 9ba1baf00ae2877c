"""Prefetching: order, errors, overlap, and an early end."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ingest.loading.prefetch import prefetch

TIMEOUT_S = 10


Threads = Callable[[], set[threading.Thread]]


@pytest.fixture
def threads() -> Threads:
    """Returns the threads that the test has started and that still run."""
    before = set(threading.enumerate())
    return lambda: set(threading.enumerate()) - before


def test_items_come_in_their_order() -> None:
    assert list(prefetch(range(100))) == list(range(100))
    assert list(prefetch([])) == []
    assert list(prefetch([None, False, 0])) == [None, False, 0]


def test_an_error_comes_after_the_items_before_it(threads: Threads) -> None:
    def failing() -> Iterator[int]:
        yield from (1, 2, 3)
        raise OSError("gone")

    received = []
    with pytest.raises(OSError, match="gone"):
        for item in prefetch(failing()):
            received.append(item)
    assert received == [1, 2, 3]
    assert threads() == set()


def test_the_next_items_are_computed_while_the_caller_works_and_no_more_than_two() -> None:
    computed: list[int] = []
    two_ahead = threading.Event()

    def counting() -> Iterator[int]:
        for number in range(10):
            computed.append(number)
            if number == 2:
                two_ahead.set()
            yield number

    items = prefetch(counting())
    assert next(items) == 0
    assert two_ahead.wait(TIMEOUT_S)  # computed although nobody has asked for it
    time.sleep(0.1)
    assert computed == [0, 1, 2]
    assert list(items) == list(range(1, 10))


def test_two_stages_work_at_the_same_time() -> None:
    both = threading.Barrier(2)

    def first(number: int) -> int:
        if number > 0:
            both.wait(TIMEOUT_S)  # while the second stage works on the number before
        return number

    def second(number: int) -> int:
        if number < 3:
            both.wait(TIMEOUT_S)  # while the first stage works on the next number
        return number

    assert list(prefetch(map(second, prefetch(map(first, range(4)))))) == [0, 1, 2, 3]


def test_an_early_end_stops_all_threads_and_closes_the_source(threads: Threads) -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = prefetch(map(abs, prefetch(endless())))
    assert next(items) == 1
    assert len(threads()) == 2
    items.close()  # type: ignore[attr-defined]
    del items
    assert threads() == set()
    assert closed.wait(TIMEOUT_S)
