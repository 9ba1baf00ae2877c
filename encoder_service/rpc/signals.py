"""Handle the signals that end the service: SIGTERM, SIGINT and SIGHUP."""

import signal
import time
from collections.abc import Callable
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds between checks for a signal. Python runs signal handlers only in the main thread. If the system delivers a
# signal to another thread, the main thread sleeps on, and the handler runs when it wakes up.
_POLL_S = 0.1


class EndingSignals:
    """Counts the signals that end the service. A signal that arrives before `wait` is called raises SystemExit instead.

    Create this object in the main thread, before the server starts.

    Attributes:
        count: Signals received since `wait` was called.
    """

    def __init__(self) -> None:
        """Install the handlers. If SIGHUP is ignored, as under `nohup`, it stays ignored."""
        self.count = 0
        self._is_starting = True
        for number in _ENDING:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    def wait(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait for the first signal.

        Args:
            meanwhile: Called about every 0.1 s until then.
        """
        self._is_starting = False
        # A `threading.Event` could deadlock here: the handler would set it while `Event.wait`, which the handler has
        # interrupted, holds the event's lock.
        while not self.count:
            meanwhile()
            time.sleep(_POLL_S)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._is_starting:
            raise SystemExit(128 + number)
        self.count += 1
