"""Handle the signals that end the service: SIGTERM, SIGINT and SIGHUP."""

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds between checks for a signal. Python runs signal handlers only in the main thread. If the system delivers a
# signal to another thread, the main thread sleeps on, and the handler runs when it wakes up.
_POLL_S = 0.1


class EndingSignals:
    """Counts the signals that end the service. A signal that arrives before `wait` is called raises SystemExit instead.

    Create this object in the main thread, before the server starts, and start the server within its context: a C
    extension may turn the SystemExit into an ImportError if the signal arrives while the extension is imported. Then
    the end of the context raises SystemExit again.

    Attributes:
        count: Signals received since `wait` was called.
    """

    def __init__(self) -> None:
        """Install the handlers. If SIGHUP is ignored, as under `nohup`, it stays ignored."""
        self.count = 0
        self._is_starting = True
        self._early: int | None = None  # the signal that arrived before `wait` was called
        for number in _ENDING:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raise SystemExit if a signal arrived before `wait` was called."""
        self._end_if_early()

    def wait(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait for the first signal.

        Args:
            meanwhile: Called about every 0.1 s until then.
        """
        self._end_if_early()
        self._is_starting = False
        # A `threading.Event` could deadlock here: the handler would set it while `Event.wait`, which the handler has
        # interrupted, holds the event's lock.
        while not self.count:
            meanwhile()
            time.sleep(_POLL_S)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._is_starting:
            self._early = number
            self._end_if_early()
        self.count += 1

    def _end_if_early(self) -> None:
        if self._early is not None:
            raise SystemExit(128 + self._early)
