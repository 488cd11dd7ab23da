"""What a backlog has kept of the past: entered into the ledger at a start, and pruned now and then."""

from __future__ import annotations

from harmonicio.core.clock import Clock, SteadyWall
from harmonicio.master.backlog.base import BacklogStore, Recovery, first_few
from harmonicio.master.backlog.entry import Entry
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

    def restore(self, ledger: Ledger, recovery: Recovery) -> tuple[str, ...]:
        """Enter what was recovered; return what had to be repaired for that, in sentences."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        for finished in recovery.finished:
            ledger.restore_finished(finished, now, max(0.0, wall - finished.finished_at))
        removed = []
        for entries, is_dead in ((recovery.entries, False), (recovery.dead, True)):
            for entry in entries:
                other = ledger.books.entry(entry.stream, entry.message_id)
                if other is None:
                    ledger.restore(entry, is_dead=is_dead)
                    continue
                # An id is taken anew only when its earlier message is gone: it is the row of that which was left.
                removed.append(min(entry, other, key=lambda each: each.sequence))
                if removed[-1] is other:
                    ledger.books.remove(other)
                    ledger.restore(entry, is_dead=is_dead)
        return first_few([self._remove(entry) for entry in removed])

    def _remove(self, entry: Entry) -> str:
        self._store.forget(entry, lambda _: None)  # What cannot be removed is met again at the next start.
        return f"Message {entry.message_id!r} of stream {entry.stream!r} was there twice: the earlier one was removed."

    def tick(self, now: float) -> None:
        """Have forgotten what is too old; called a few times a second, from one thread."""
        wall = self._wall.look()
        if now >= self._prune_at:
            self._prune_at = now + PRUNE_INTERVAL_S
            self._store.prune(wall)
