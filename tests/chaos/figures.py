"""What the master says of itself while a run lasts; only for the figures that are printed, never for the verdict."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from harmonicio.control.messages import Status
from harmonicio.core.errors import HarmonicIOError

EVERY_S = 1.0


class Figures:
    """Asks the master every second, in a thread of its own; no answer is an answer.

    Args:
        status: Asks once.
    """

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status
        #: By start of the master: its counters begin at 0 with every one.
        self._late: dict[int, int] = {}
        self.deepest = 0
        self._starts = 0
        self._uptime_s = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="figures", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    @property
    def late_outcomes(self) -> int:
        """How many outcomes of attempts that had been given up the master has heard and fenced off, at least."""
        return sum(self._late.values())

    def _run(self) -> None:
        while not self._is_over.wait(EVERY_S):
            with suppress(HarmonicIOError):
                self._take(self._status())

    def _take(self, status: Status) -> None:
        self._starts += status.uptime_s < self._uptime_s
        self._uptime_s = status.uptime_s
        backlogs = [each.backlog for each in status.streams]
        self._late[self._starts] = sum(each.late_total for each in backlogs)
        self.deepest = max(self.deepest, sum(each.ready for each in backlogs))
