"""Time a call."""

import time
from collections.abc import Callable


def seconds(call: Callable[[], object]) -> float:
    """Make a call, and return the seconds that it took."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
