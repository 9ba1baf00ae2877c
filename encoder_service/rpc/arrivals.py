"""Batch the items that have arrived on a stream since the last read."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


def arrivals(
    items: Iterable[T], max_items: int, max_bytes: int, size_of: Callable[[T], int]
) -> Generator[list[T], None, None]:
    """Yield batches of the items that have arrived since the last batch, at least one each, in order.

    A thread reads the stream ahead, and waits when the consumer of the batches is slower. An error of the stream is
    raised after the items that preceded it. Close the generator to stop early.

    Args:
        items: The stream.
        max_items: Maximum items read ahead, and therefore in a batch.
        max_bytes: Maximum bytes read ahead. A larger item forms a batch of its own.
        size_of: Returns the bytes of an item.
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
    """A queue between two threads, bounded in items and in bytes, whose consumer takes all items at once."""

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._max_items, self._max_bytes = max_items, max_bytes
        self._items: deque[T] = deque()
        self._bytes = 0
        self._ended = self._abandoned = False
        self._error: Exception | None = None
        self._changed = threading.Condition()

    def put(self, item: T, size: int) -> bool:
        """Append an item, once it fits. Return False if the consumer has abandoned the queue."""
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
        """Mark the end of the items, and the error that caused it, if any."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def take_all(self) -> list[T]:
        """Wait for items and remove them all. Return an empty list at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended)
            if not self._items and self._error:
                try:
                    raise self._error
                finally:
                    self._error = None  # or the error's traceback and this queue would keep each other alive
            items, self._bytes = list(self._items), 0
            self._items.clear()
            self._changed.notify_all()
            return items

    def abandon(self) -> None:
        """Refuse all further items."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
