"""What a log says of strangers: a few lines at once, then one in a second, and how many were left out.

Who has no ticket can come back thousands of times in a second. With a line for each time he would fill the disk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

BURST, PER_S = 50, 1.0


class StrangerLog:
    """A logger that strangers cannot fill. Safe to use from several threads.

    Args:
        log: Where its lines go.
        clock: In seconds.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._allowed = float(BURST)
        self._counted_at = clock()
        self._left_out = 0

    def __repr__(self) -> str:
        return f"<StrangerLog {self._allowed:.0f} lines allowed, {self._left_out} left out>"

    def say(self, level: int, text: str, *values: object) -> None:
        """Write a line, unless there were too many; the next one that is written says how many are missing."""
        with self._lock:
            now = self._clock()
            self._allowed = min(float(BURST), self._allowed + (now - self._counted_at) * PER_S)
            self._counted_at = now
            if self._allowed < 1.0:
                self._left_out += 1
                return
            self._allowed -= 1.0
            left_out, self._left_out = self._left_out, 0
        if left_out:
            text, values = f"{text} (%d lines like this are left out.)", (*values, left_out)
        self._log.log(level, text, *values)
