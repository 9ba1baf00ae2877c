"""What has arrived on a stream and waits, taken together."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


def arrivals(
    items: Iterable[T], most: int, most_bytes: int, size_of: Callable[[T], int]
) -> Generator[list[T], None, None]:
    """Yield what has arrived since the last time, one item or more, in order.

    A stream that is faster than its reader has to wait. What the items raise is raised after those that came before.
    Close it when no more is wanted.

    Args:
        items: The stream.
        most: How many are read ahead, and how many are yielded at once.
        most_bytes: How many bytes are read ahead; one larger item comes alone.
        size_of: Tells the bytes of an item.
    """
    arrived = _Arrived[T](most, most_bytes)

    def read() -> None:
        try:
            for item in items:
                if not arrived.put(item, size_of(item)):
                    return
            arrived.end()
        except Exception as error:
            arrived.end(error)

    threading.Thread(target=read, name="arrivals", daemon=True).start()
    try:
        while batch := arrived.take():
            yield batch
    finally:
        arrived.leave()


class _Arrived(Generic[T]):
    """A queue that is bounded in items and in bytes, emptied at once."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._items: deque[T] = deque()
        self._bytes = 0
        self._ended = self._left = False
        self._error: Exception | None = None
        self._changed = threading.Condition()

    def put(self, item: T, size: int) -> bool:
        """Wait for room, and return whether the item was taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or not self._items or self._has_room(size))
            if not self._left:
                self._items.append(item)
                self._bytes += size
                self._changed.notify_all()
            return not self._left

    def _has_room(self, size: int) -> bool:
        return len(self._items) < self._most and self._bytes + size <= self._most_bytes

    def end(self, error: Exception | None = None) -> None:
        """Say that no more comes, and why."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def take(self) -> list[T]:
        """Wait for items and return all; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended)
            if not self._items and self._error:
                try:
                    raise self._error
                finally:
                    self._error = None  # with it, this and all that its traceback holds would keep each other alive
            taken, self._bytes = list(self._items), 0
            self._items.clear()
            self._changed.notify_all()
            return taken

    def leave(self) -> None:
        """Say that no more is wanted."""
        with self._changed:
            self._left = True
            self._changed.notify_all()
