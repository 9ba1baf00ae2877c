"""The caller's deadline, kept in a context variable so that it need not be passed through every call.

Two more facts are kept in the same way: whether the caller still waits for the result, and whether calls may wait for a
server that can't be reached.
"""

import threading
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
    """The caller that waits for the result of the current work.

    Attributes:
        ends: Deadline on the monotonic clock, in seconds; None for no deadline.
        is_waiting: Returns whether the caller still waits for the result.
    """

    ends: float | None = None
    is_waiting: Callable[[], bool] = _always


_caller: ContextVar[_Caller] = ContextVar("caller")
_UNBOUNDED = _Caller()
_end_of_waits: ContextVar[threading.Event | None] = ContextVar("end_of_waits", default=None)


@contextmanager
def deadline(seconds: float | None, is_waiting: Callable[[], bool] = _always) -> Iterator[None]:
    """Set the deadline for all work in the block.

    Args:
        seconds: Seconds from now to the deadline; None for no deadline.
        is_waiting: Returns whether the caller still waits for the result.
    """
    token = _caller.set(_Caller(None if seconds is None else time.monotonic() + seconds, is_waiting))
    try:
        yield
    finally:
        _caller.reset(token)


def seconds_left() -> float | None:
    """Return the seconds until the caller's deadline, 0 or less once it has passed; None for no deadline."""
    ends = _caller.get(_UNBOUNDED).ends
    return None if ends is None else ends - time.monotonic()


def check_wanted() -> None:
    """Raise an error if the caller no longer waits for the result. Call this before each expensive step.

    Raises:
        TooLateError: The deadline has passed, or the caller has gone.
    """
    caller = _caller.get(_UNBOUNDED)
    if caller.ends is not None and caller.ends <= time.monotonic():
        raise TooLateError("the caller's deadline passed before the answer was ready")
    if not caller.is_waiting():
        raise TooLateError("the caller has gone")


@contextmanager
def waits_end_with(stop: threading.Event) -> Iterator[None]:
    """Within the block, stop waiting for unreachable servers once `stop` is set. Calls are still attempted."""
    token = _end_of_waits.set(stop)
    try:
        yield
    finally:
        _end_of_waits.reset(token)


def may_wait() -> bool:
    """Return whether a call may wait for a server that can't be reached; see `waits_end_with`."""
    stop = _end_of_waits.get()
    return stop is None or not stop.is_set()
