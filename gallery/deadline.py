"""How long a caller still waits, known to whatever works for it without being handed through every call."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from gallery.errors import TooLateError


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class _Caller:
    ends: float | None = None
    waits: Callable[[], bool] = _always


_caller: ContextVar[_Caller] = ContextVar("caller")
_NOBODY = _Caller()


@contextmanager
def deadline(seconds: float | None, waits: Callable[[], bool] = _always) -> Iterator[None]:
    """Give everything in the block at most so many seconds.

    Args:
        seconds: How many; None for no bound.
        waits: Tells whether the caller is still there.
    """
    token = _caller.set(_Caller(None if seconds is None else time.monotonic() + seconds, waits))
    try:
        yield
    finally:
        _caller.reset(token)


def seconds_left() -> float | None:
    """Return what is left of the caller's time, 0 or less when it is over; None for no bound."""
    ends = _caller.get(_NOBODY).ends
    return None if ends is None else ends - time.monotonic()


def check_wanted() -> None:
    """Stop work that nobody waits for any more; called before each step that costs something.

    Raises:
        TooLateError: The caller's time is over, or it has gone away.
    """
    caller = _caller.get(_NOBODY)
    if caller.ends is not None and caller.ends <= time.monotonic():
        raise TooLateError("the caller's time was over before it could be answered")
    if not caller.waits():
        raise TooLateError("the caller has gone away")
