"""Batches of the items that have arrived on a stream."""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from encoder_service.rpc.arrivals import arrivals


def test_all_items_come_in_order_in_batches_of_a_bounded_size() -> None:
    batches = list(arrivals(range(1000), 64, 10_000, int))
    assert [item for batch in batches for item in batch] == list(range(1000))
    assert {len(batch) for batch in batches} <= set(range(1, 65))


def test_no_more_bytes_are_read_ahead_than_allowed() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for size in (30, 30, 30, 200, 5):
            read.append(size)
            yield size

    with closing(arrivals(items(), 64, 70, int)) as batches:
        time.sleep(0.2)
        assert read == []  # nothing is read before it is asked for
        first = next(batches)
        time.sleep(0.2)
        assert sum(read[:-1]) <= sum(first) + 70  # the last item has been read and does not fit yet
        assert [size for batch in (first, *batches) for size in batch] == [30, 30, 30, 200, 5]


def test_an_error_of_the_stream_is_raised_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise ValueError("torn")

    seen: list[int] = []
    with pytest.raises(ValueError, match="torn"):
        for batch in arrivals(items(), 2, 100, int):
            seen += batch
    assert seen == [0, 1, 2]


def test_stopping_early_leaves_no_thread() -> None:
    with closing(arrivals(itertools.count(), 4, 100, int)) as batches:
        assert next(batches)[0] == 0
        time.sleep(0.2)  # the thread has read as far ahead as it may, and waits
    ends = time.monotonic() + 10
    while "arrivals" in [thread.name for thread in threading.enumerate()]:
        assert time.monotonic() < ends
        time.sleep(0.02)
