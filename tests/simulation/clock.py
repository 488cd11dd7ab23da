"""What stands in for ``time``: the clocks of the host on which the current task runs."""

from __future__ import annotations

from simulation.loop import current, sleep


def monotonic() -> float:
    """Seconds since some start of this host's."""
    return current().process.host.monotonic()


def wall() -> float:
    """What this host believes that the time is."""
    return current().process.host.wall()


class TimeModule:
    """``time``."""

    monotonic = staticmethod(monotonic)
    time = staticmethod(wall)
    sleep = staticmethod(sleep)
