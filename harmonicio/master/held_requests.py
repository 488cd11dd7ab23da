"""Requests that are held until something is so: so many at a time, because each one holds a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from harmonicio.core.errors import Unavailable

RETRY_AFTER_S = 1.0


class HeldRequests:
    """The requests of one kind that wait.

    Args:
        changed: Its lock is held by who waits and by who changes anything, and it is notified of every change.
        limit: How many may wait.
    """

    def __init__(self, changed: threading.Condition, limit: int) -> None:
        self._changed = changed
        self._limit = limit
        self.count = 0
        self.is_ended = False

    def __repr__(self) -> str:
        return f"<HeldRequests {self.count} of {self._limit}{', ended' if self.is_ended else ''}>"

    def wait_for(self, condition: Callable[[], object], wait_s: float) -> None:
        """Wait until something is so, for ``wait_s`` at most.

        Raises:
            Unavailable: so many wait already.
        """
        if not wait_s > 0 or condition():
            return
        if self.count >= self._limit:
            raise Unavailable(f"{self._limit} requests are being held already.", retry_after_s=RETRY_AFTER_S)
        self.count += 1
        try:
            self._changed.wait_for(lambda: self.is_ended or condition(), wait_s)
        finally:
            self.count -= 1

    def end(self) -> None:
        """Let all go, and hold none any more."""
        with self._changed:
            self.is_ended = True
            self._changed.notify_all()
