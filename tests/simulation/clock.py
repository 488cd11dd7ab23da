"""What stands in for ``time``: the clocks of the host on which the current task runs."""

from __future__ import annotations

from greenlet import getcurrent

from simulation.loop import current, sleep


def monotonic() -> float:
    """Seconds since some start of this host's."""
    host = getcurrent().process.host  # type: ignore[attr-defined]  as `current`, which is slower: half of all calls
    return float(host.loop.now + host.monotonic_offset_s)


def wall() -> float:
    """What this host believes that the time is."""
    return current().process.host.wall()


class TimeModule:
    """``time``."""

    monotonic = staticmethod(monotonic)
    time = staticmethod(wall)
    sleep = staticmethod(sleep)
