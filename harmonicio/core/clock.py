"""Time, so that tests can bring their own.

Leases and time-outs use the monotonic clock; the wall clock appears only in records.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds that never go backwards, from an arbitrary start."""
        ...

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        ...


class SystemClock:
    """The clocks of this host."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class SteadyWall:
    """The wall clock for telling how old records are: when it is set forward, they do not age at a stroke.

    It never gains on the monotonic clock. Set back, it goes back: records then live longer, and none too short. What
    was recorded before it was made has nothing but the wall clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen_at, self._wall = clock.monotonic(), clock.wall()

    def look(self) -> float:
        """Return seconds since 1970-01-01 UTC; to be looked at now and then, from one thread."""
        now = self._clock.monotonic()
        self._wall = min(self._clock.wall(), self._wall + now - self._seen_at)
        self._seen_at = now
        return self._wall
