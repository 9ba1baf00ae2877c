"""Read a stream in batches. A batch has all items that have arrived since the previous batch was taken."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


def arrivals(
    items: Iterable[T], max_items: int, max_bytes: int, size_of: Callable[[T], int]
) -> Generator[list[T], None, None]:
    """Yield all items of a stream in order, in batches of the items that have arrived since the previous batch.

    Each batch has at least one item. A thread reads the stream ahead of the consumer, up to the limits below. If the
    stream raises an error, the items before the error are yielded first. Close the generator to stop early.

    Args:
        items: The stream.
        max_items: Maximum items read ahead, and therefore in a batch.
        max_bytes: Maximum bytes read ahead. A single larger item is allowed, and forms a batch of its own.
        size_of: Returns the number of bytes of an item.
    """
    queue = _Queue[T](max_items, max_bytes)

    def read() -> None:
        try:
            for item in items:
                if not queue.put(item, size_of(item)):
                    return
            queue.end()
        except Exception as error:
            queue.end(error)

    threading.Thread(target=read, name="arrivals", daemon=True).start()
    try:
        while batch := queue.take_all():
            yield batch
    finally:
        queue.abandon()


class _Queue(Generic[T]):
    """A bounded queue between two threads. The consumer takes all queued items at once."""

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._max_items, self._max_bytes = max_items, max_bytes
        self._items: deque[T] = deque()
        self._bytes = 0
        self._ended = self._abandoned = False
        self._error: Exception | None = None
        self._changed = threading.Condition()

    def put(self, item: T, size: int) -> bool:
        """Wait until an item fits, and append it. Return False if the consumer has abandoned the queue."""
        with self._changed:
            self._changed.wait_for(lambda: self._abandoned or not self._items or self._fits(size))
            if not self._abandoned:
                self._items.append(item)
                self._bytes += size
                self._changed.notify_all()
            return not self._abandoned

    def _fits(self, size: int) -> bool:
        return len(self._items) < self._max_items and self._bytes + size <= self._max_bytes

    def end(self, error: Exception | None = None) -> None:
        """Report that no more items follow, because the stream has ended or has raised an error."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def take_all(self) -> list[T]:
        """Wait for items, then remove and return them all. At the end of the stream, return an empty list.

        Raises:
            Exception: The stream has raised this error, and all items before the error have been taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended)
            if not self._items and self._error:
                try:
                    raise self._error
                finally:
                    self._error = None  # break the cycle: the error's traceback refers to this queue
            items, self._bytes = list(self._items), 0
            self._items.clear()
            self._changed.notify_all()
            return items

    def abandon(self) -> None:
        """Make `put` return False from now on, because the consumer takes no more items."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
