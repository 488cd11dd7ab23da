"""What a backlog has kept of the past: entered into the ledger at a start, and pruned now and then."""

from __future__ import annotations

from harmonicio.core.clock import Clock, SteadyWall
from harmonicio.master.backlog.base import BacklogStore, Recovery
from harmonicio.master.backlog.ledger import Ledger

PRUNE_INTERVAL_S = 10.0


class Past:
    """Outcomes and ids of a store, and how old they are.

    How old those of earlier runs are at the start, only the wall clock can say. Afterwards one that is set forward
    makes nothing older.
    """

    def __init__(self, store: BacklogStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._wall = SteadyWall(clock)
        self._prune_at = 0.0

    def restore(self, ledger: Ledger, recovery: Recovery) -> None:
        """Enter what was recovered."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        for finished in recovery.finished:
            ledger.restore_finished(finished, now, max(0.0, wall - finished.finished_at))
        for entries, is_dead in ((recovery.entries, False), (recovery.dead, True)):
            for entry in entries:
                ledger.restore(entry, is_dead=is_dead)

    def tick(self, now: float) -> None:
        """Have forgotten what is too old; called a few times a second, from one thread."""
        wall = self._wall.look()
        if now >= self._prune_at:
            self._prune_at = now + PRUNE_INTERVAL_S
            self._store.prune(wall)
