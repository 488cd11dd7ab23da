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
