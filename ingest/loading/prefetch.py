"""Prefetching: a thread computes the next items of an iterator while the caller works on the current one."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import TypeVar

T = TypeVar("T")

# Number of items computed ahead of the caller. With two, the caller and the thread rarely wait for each other, even
# if their speeds vary.
_DEPTH = 2


class _End(Enum):
    END = 0


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Yield items in their order while one thread computes the next ones, at most two ahead.

    An error that occurs in the thread is raised in the caller. If the caller stops early, the thread ends after its
    current item.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, "prefetch") as thread:
        ahead = deque(thread.submit(lambda: next(iterator, _End.END)) for _ in range(_DEPTH))
        try:
            while (item := ahead.popleft().result()) is not _End.END:
                ahead.append(thread.submit(lambda: next(iterator, _End.END)))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)
