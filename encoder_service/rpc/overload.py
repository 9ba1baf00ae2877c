"""Detect overload, and admit fewer calls while it lasts.

With a long queue, an overloaded service would answer every call late. Admitting fewer calls keeps the queue short until
the overload ends, as in "Fail at Scale" (B. Maurer, ACM Queue 13, 2015).
"""

import math
import time
from collections.abc import Callable

# Length in seconds of the windows into which an overload is divided. At the end of each, the calls that arrived in it
# decide whether the overload continues.
_WINDOW_S = 1.0
# Overload begins if more than half of the calls that the limit allows are in flight for this many seconds. A single
# burst is over sooner.
_MAX_CROWDED_S = 0.1


class OverloadDetector:
    """Decides which calls are admitted, and admits fewer while the service is overloaded.

    Overload begins when a call arrives and the limit is reached, or when more than half of the allowed calls have been
    in flight for 0.1 s. At the end of each second, overload continues only if more than half of the calls that arrived
    in that second were rejected.
    """

    def __init__(
        self, limit: int, overload_limit: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin without overload.

        Args:
            limit: Maximum calls in flight.
            overload_limit: Maximum calls in flight during overload. Values above half of `limit` count as that half,
                and values below 1 count as 1. None keeps `limit` during overload.
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
            in_flight: Number of calls in flight, without the arriving call.
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
        """Continue the overload for another window, or end it. If no call has arrived for a whole window, end it."""
        self._is_overloaded = now < self._window_ends + _WINDOW_S and 2 * self._rejected > self._arrived
        if self._is_overloaded:
            self._begin_window(now)
        else:
            self._window_ends = math.inf

    def _begin_window(self, now: float) -> None:
        self._window_ends = now + _WINDOW_S
        self._arrived = self._rejected = 0
