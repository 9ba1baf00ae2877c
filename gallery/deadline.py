"""How much time a caller has left, known to whatever works for it without being handed through every call."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ends: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Give everything in the block at most so many seconds; None for no bound."""
    token = _ends.set(None if seconds is None else time.monotonic() + seconds)
    try:
        yield
    finally:
        _ends.reset(token)


def seconds_left() -> float | None:
    """Return what is left of the caller's time, 0 or less when it is over; None for no bound."""
    ends = _ends.get()
    return None if ends is None else ends - time.monotonic()
