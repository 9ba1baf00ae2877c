"""Wait for what happens in other threads and processes."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], within_s: float = 20.0, every_s: float = 0.05) -> None:
    """Return as soon as a condition holds.

    Args:
        condition: The condition.
        within_s: Seconds after which the test fails.
        every_s: Seconds between two checks.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(every_s)
