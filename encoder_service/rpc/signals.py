"""The signals that end the service: SIGTERM, SIGINT and SIGHUP."""

import signal
import threading
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds between checks for a signal. Python runs handlers only in the main thread. If another thread receives the
# signal, the handler does not run until the main thread executes again.
_POLL_S = 0.1


class EndingSignals:
    """Counts the signals that end the service. Until `wait` is called, a signal raises SystemExit instead.

    Create it in the main thread, before starting anything that has to be closed.

    Attributes:
        count: Signals received since `wait` was called.
    """

    def __init__(self) -> None:
        """Handle the signals, except a SIGHUP that this process ignores, as `nohup` arranges."""
        self.count = 0
        self._is_starting = True
        self._received = threading.Event()
        for number in _ENDING:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    def wait(self) -> None:
        """Wait for the first signal."""
        self._is_starting = False
        while not self._received.wait(_POLL_S):
            pass

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._is_starting:
            raise SystemExit(128 + number)
        self.count += 1
        self._received.set()
