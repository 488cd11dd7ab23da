"""A clock that stands still until a test moves it."""

from __future__ import annotations


class ManualClock:
    """Both clocks of :class:`~harmonicio.core.clock.Clock`; only tests move them.

    Args:
        now: Where the monotonic clock starts, in seconds.
        wall: Where the wall clock starts, in seconds since the epoch.
    """

    def __init__(self, now: float = 1_000.0, wall: float = 1_700_000_000.0) -> None:
        self._now = now
        self._wall = wall

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now}>"

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._wall

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
        self._wall += seconds

    def set_wall(self, by_s: float) -> None:
        """Somebody sets the wall clock forward, or back."""
        self._wall += by_s
