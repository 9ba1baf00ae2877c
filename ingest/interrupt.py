"""Turn Ctrl-C and SIGTERM into a request to stop gracefully."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def stop_on_signal(say: Callable[[str], None]) -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets. A second one raises KeyboardInterrupt.

    Args:
        say: Prints a line that confirms the first signal to the user.
    """
    stop = threading.Event()

    def request_stop(signum: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        with suppress(RuntimeError):  # Python raises it if the signal has interrupted another write to stderr
            say("stopping after the images in flight; press Ctrl-C again to stop at once")

    previous = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
