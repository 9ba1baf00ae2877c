"""Detect overload, and admit fewer calls while it lasts.

An overloaded service that kept a long queue would answer every call in it late. So the queue is kept short until the
overload is over, as in "Fail at Scale" (B. Maurer, ACM Queue 13, 2015).
"""

import math
import time
from collections.abc import Callable

# Seconds of the window whose arrivals decide whether an overload continues.
_WINDOW_S = 1.0
# Seconds for which a pool may be more than half full before that counts as overload: long enough for one burst.
_MAX_CROWDED_S = 0.1


class OverloadDetector:
    """Decides which calls are admitted, and admits fewer while the service is overloaded.

    Overload begins when an arriving call finds the limit reached, or more than half of the limit in flight for 0.1 s.
    It is re-evaluated every second, and continues while more than half of the calls that arrived in that second
    were rejected.
    """

    def __init__(
        self, limit: int, overload_limit: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin without overload.

        Args:
            limit: Maximum calls in flight.
            overload_limit: Maximum calls in flight during overload, cut to between 1 and half of `limit`; None for
                `limit`.
            clock: Returns the time in seconds.
        """
        self._limit = limit
        self._overload_limit = limit if overload_limit is None else max(1, min(overload_limit, limit // 2))
        self._clock = clock
        self._window_ends = math.inf
        self._crowded_since = math.inf
        self._arrived = self._rejected = 0
        self._is_overloaded = False

    def admits(self, in_flight: int) -> bool:
        """Count an arriving call, and return whether it is admitted.

        Args:
            in_flight: Calls in flight, without this one.
        """
        now = self._clock()
        if now >= self._window_ends:
            self._end_window(now)
        self._crowded_since = min(self._crowded_since, now) if 2 * in_flight > self._limit else math.inf
        if in_flight >= self._limit or now - self._crowded_since > _MAX_CROWDED_S:
            self._begin_overload(now)
        admitted = in_flight < (self._overload_limit if self._is_overloaded else self._limit)
        self._arrived += 1
        self._rejected += not admitted
        return admitted

    def _begin_overload(self, now: float) -> None:
        if not self._is_overloaded:
            self._is_overloaded = True
            self._begin_window(now)

    def _end_window(self, now: float) -> None:
        """Continue the overload for another window, or end it. It also ends if no call arrives for a whole window."""
        self._is_overloaded = now < self._window_ends + _WINDOW_S and 2 * self._rejected > self._arrived
        if self._is_overloaded:
            self._begin_window(now)
        else:
            self._window_ends = math.inf

    def _begin_window(self, now: float) -> None:
        self._window_ends = now + _WINDOW_S
        self._arrived = self._rejected = 0
