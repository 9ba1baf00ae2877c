"""Working ahead: what lets reading, encoding and storing overlap without any of them running away."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_DEPTH = 2
_TICK_S = 0.1


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Yield items while a thread of its own makes the next ones, at most two ahead.

    What the items raise is raised here. When the caller stops early, the thread ends after the item in hand.
    """
    made: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(_DEPTH)
    stopped = threading.Event()

    def put(last: bool, value: T | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                made.put((last, value), timeout=_TICK_S)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(False, item):
                    return
            put(True, None)
        except BaseException as error:
            put(True, error)

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            last, value = made.get()
            if not last:
                yield value  # type: ignore[misc]
            elif value is None:
                return
            else:
                raise value  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
