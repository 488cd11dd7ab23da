"""When the next of many equal log lines is due."""

from __future__ import annotations

import math
import threading


class LogPace:
    """Lets the first event be logged at once, and afterwards one line an interval, which says how many there were."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._unlogged = 0
        self._due_at = -math.inf

    def __repr__(self) -> str:
        return f"<LogPace: {self._unlogged} events to log>"

    def count(self, now: float) -> int:
        """Count an event; return how many a line of this moment stands for, 0 when none is due."""
        with self._lock:
            self._unlogged += 1
            if now < self._due_at:
                return 0
            self._due_at = now + self._interval_s
            count, self._unlogged = self._unlogged, 0
            return count
