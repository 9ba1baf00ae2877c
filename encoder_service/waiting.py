"""What has arrived on a stream and waits, taken together."""

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def waiting(items: Iterable[T], most: int) -> Generator[list[T], None, None]:
    """Yield what has arrived since the last time, one item or more, in order.

    No more than `most` are read ahead, so a stream that is faster than its reader has to wait. What the items raise
    is raised after those that came before. Close it when no more is wanted.
    """
    arrived: queue.Queue[T | _End] = queue.Queue(most)
    left = threading.Event()

    def read() -> None:
        end = _End()
        try:
            for item in items:
                arrived.put(item)
                if left.is_set():
                    return
        except Exception as error:
            end.error = error
        arrived.put(end)

    threading.Thread(target=read, name="waiting", daemon=True).start()
    try:
        yield from _batches(arrived, most)
    finally:  # nobody takes what comes now: let the thread, which may be waiting for room, come to its end
        left.set()
        while not arrived.empty():
            arrived.get()


def _batches(arrived: "queue.Queue[T | _End]", most: int) -> Iterator[list[T]]:
    while True:
        batch: list[T] = []
        item = arrived.get()
        while not isinstance(item, _End):
            batch.append(item)
            if len(batch) == most or arrived.empty():
                break
            item = arrived.get()
        if batch:
            yield batch
        if isinstance(item, _End):
            if item.error:
                raise item.error
            return


class _End:
    error: Exception | None = None
