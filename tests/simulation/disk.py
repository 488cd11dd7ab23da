"""The disk of the master: a backlog store whose writes are seen at once and are stable only after a sync.

It stands for :class:`harmonicio.master.backlog.sqlite.SqliteStore` and passes the same contract suite.

    put, bury, finish … ──► journal ──sync, some time later, many at once──► stable ──► callbacks
                              │ crash                                          │ damage
                              └──► a first part of it survives, or nothing     └──► a payload has other bytes

A :class:`Disk` outlives the stores that are opened on it. What a crash leaves of the journal is a first part of it, as
the order of one SQLite log has it; nobody was told of that part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harmonicio.core.clock import Clock
from harmonicio.core.errors import StorageError
from harmonicio.core.message import Outcome
from harmonicio.master.backlog.base import (
    OUTCOMES_KEPT_S,
    BacklogStore,
    Callback,
    MemoryPayload,
    PayloadLease,
    PendingPayload,
    Recovery,
    StoreLimits,
    damaged,
)
from harmonicio.master.backlog.cause_of_death import death_bytes
from harmonicio.master.backlog.digest import is_intact
from harmonicio.master.backlog.entry import FINISHED_KEPT_S, Death, Entry, Finished, Shed
from harmonicio.master.backlog.outcome_codec import KeptOutcome, decode_outcome, encode_outcome

#: The trouble of a full disk.
NO_ROOM = "No space left on device"


@dataclass(slots=True)
class Row:
    """One entry as it is kept."""

    entry: Entry
    payload: bytes
    death: Death | None = None


@dataclass(slots=True)
class Content:
    """All that lies on a disk."""

    rows: dict[int, Row] = field(default_factory=dict)
    finished: dict[tuple[str, str], Finished] = field(default_factory=dict)
    outcomes: dict[tuple[str, str], bytes] = field(default_factory=dict)
    shed: list[Shed] = field(default_factory=list)

    def copy(self) -> Content:
        rows = {number: Row(row.entry.as_stored(), row.payload, row.death) for number, row in self.rows.items()}
        return Content(rows, dict(self.finished), dict(self.outcomes), list(self.shed))

    def add(self, row: Row) -> None:
        """Add a row; with it goes what is told of an earlier message of its id that was shed."""
        self.rows[row.entry.sequence] = row
        key = (row.entry.stream, row.entry.message_id)
        if (ended := self.finished.get(key)) is not None and ended.is_shed:
            del self.finished[key]
            self.outcomes.pop(key, None)

    def remove(self, sequence: int) -> None:
        self.rows.pop(sequence, None)


#: One write: what it does to a content.
Write = Callable[[Content], object]


class Disk:
    """What survives.

    Args:
        schedule: Calls something later, or at once, in a thread of who has opened what is here.
        is_sync_removed: The planted bug: the store answers before the sync.
    """

    def __init__(
        self, schedule: Callable[[float, Callable[[], None]], Any], draw_sync_s: Callable[[], float] = float
    ) -> None:
        self._schedule = schedule
        self._draw_sync_s = draw_sync_s
        self.stable = Content()
        self.trouble = ""
        self.is_sync_removed = False
        #: Told of each dead letter that somebody replays or purges, before anything is written.
        self.on_revive: Callable[[str], None] = lambda _: None
        self.on_purge: Callable[[str], None] = lambda _: None
        self._journal: list[tuple[Write, Callback | None]] = []
        self._syncing = 0
        self._is_telling = False
        self._opening = 0

    def opened(self) -> int:
        """Somebody opens what is here; the number tells syncs of an earlier one from theirs."""
        self._opening += 1
        self._journal, self._syncing, self._is_telling = [], 0, False
        return self._opening

    def write(self, write: Write, callback: Callback | None, opening: int) -> None:
        self._journal.append((write, callback))
        if callback is not None and self.is_sync_removed:
            self._journal[-1] = (write, None)
            self._schedule(0.0, lambda: callback(None) if opening == self._opening else None)
        if not self._syncing and not self._is_telling:
            self._begin(opening)

    def _begin(self, opening: int) -> None:
        self._syncing = len(self._journal)
        self._schedule(self._draw_sync_s(), lambda: self._synced(opening))

    def _synced(self, opening: int) -> None:
        if opening != self._opening or not self._syncing:
            return
        batch, self._journal = self._journal[: self._syncing], self._journal[self._syncing :]
        error = StorageError(f"The disk failed: {self.trouble}") if self.trouble else None
        for write, _ in batch if error is None else ():
            write(self.stable)
        self._syncing, self._is_telling = 0, True
        for _, callback in batch:
            if callback is not None:
                callback(error)
        if opening == self._opening:
            self._is_telling = False
            if self._journal and not self._syncing:
                self._begin(opening)

    def sync_all(self, opening: int) -> None:
        """Wait for what was written; no more is, and the one thread that syncs may be at it."""
        while self._journal and opening == self._opening:
            self._syncing = len(self._journal)
            self._synced(opening)

    def crash(self, draw: Callable[[int], int]) -> int:
        """Keep a first part of what was not synced; return how many writes are lost."""
        survives = draw(len(self._journal) + 1) if not self.trouble else 0
        lost = len(self._journal) - survives
        for write, _ in self._journal[:survives]:
            write(self.stable)
        self._journal, self._syncing, self._is_telling = [], 0, False
        self._opening += 1
        return lost


class SimulatedStore(BacklogStore):
    """A store on a :class:`Disk`."""

    def __init__(self, disk: Disk, limits: StoreLimits, clock: Clock) -> None:
        self._disk = disk
        self._limits = limits
        self._clock = clock
        self._live = Content()
        self._opening = 0
        self._is_open = False

    def __repr__(self) -> str:
        return f"<SimulatedStore {len(self._live.rows)} entries>"

    def recover(self) -> Recovery:
        self._opening = self._disk.opened()
        self._is_open = True
        self._live = live = self._disk.stable.copy()
        rows = [row for _, row in sorted(live.rows.items())]
        for row in rows:
            row.entry.death_bytes = 0 if row.death is None else death_bytes(row.death.failure)
        return Recovery(
            tuple(row.entry for row in rows if row.death is None),
            tuple(row.entry for row in rows if row.death is not None),
            tuple(live.finished.values()),
        )

    def new_payload(self, sequence: int, size_bytes: int, *, to_disk: bool) -> PendingPayload:
        if self._disk.trouble == NO_ROOM:  # Of another trouble only the sync hears.
            raise StorageError(f"There is no room on the disk: {self._disk.trouble}")
        return MemoryPayload(size_bytes)

    def put(self, entry: Entry, payload: PendingPayload, on_stored: Callback, death: Death | None = None) -> None:
        if not self._is_open:
            on_stored(StorageError("The backlog's store is closed."))
            return
        content = bytes(payload.buffer)
        self._live.add(Row(entry, content, death))

        def write(target: Content) -> None:
            target.add(Row(entry.as_stored(), content, death))

        def told(error: StorageError | None) -> None:
            if error is not None:
                self._live.remove(entry.sequence)
            on_stored(error)

        self._write(write, told)

    def read(self, entry: Entry) -> PayloadLease:
        row = self._live.rows.get(entry.sequence)
        if row is None:
            raise damaged(f"There is no payload of message {entry.message_id!r}.")
        if not is_intact([row.payload], entry.digest):
            raise damaged(f"The payload of message {entry.message_id!r} is not what was stored.")
        return PayloadLease(memoryview(row.payload))

    def update(self, entry: Entry) -> None:
        self._write(_written(entry), None)

    def revise(self, entries: Sequence[Entry], on_done: Callback) -> None:
        writes = [_written(entry) for entry in entries]
        self._write(lambda target: [write(target) for write in writes], on_done)

    def bury(self, entry: Entry, death: Death, on_done: Callback) -> None:
        def write(target: Content) -> None:
            if entry.sequence in target.rows:
                target.rows[entry.sequence].death = death
                _written(entry)(target)

        self._apply(write, on_done)

    def revive(self, entries: Sequence[Entry], on_done: Callback) -> None:
        for each in entries:
            self._disk.on_revive(each.message_id)

        def write(target: Content) -> None:
            for row in [target.rows[entry.sequence] for entry in entries if entry.sequence in target.rows]:
                row.death, row.entry.attempts, row.entry.crashes = None, 0, 0

        self._apply(write, on_done)

    def finish(self, entries: Sequence[Entry], outcome: Outcome, on_done: Callback) -> None:
        writes = [self._finished(entry, KeptOutcome(outcome, entry.attempts + 1)) for entry in entries]

        def write(target: Content) -> None:
            for each in writes:
                each(target)

        self._apply(write, on_done)

    def shed(self, entry: Entry, record: Shed, outcome: Outcome, on_done: Callback) -> None:
        finish = self._finished(entry, KeptOutcome(outcome, entry.attempts), is_shed=True)

        def write(target: Content) -> None:
            if entry.sequence not in target.rows:
                return
            finish(target)
            target.shed = [*target.shed, record][-self._limits.max_shed_records :]

        self._apply(write, on_done)

    def _finished(self, entry: Entry, outcome: KeptOutcome, *, is_shed: bool = False) -> Write:
        key = (entry.stream, entry.message_id)
        kept, limits = encode_outcome(outcome), self._limits
        finished = Finished(entry.stream, entry.message_id, entry.digest, self._clock.wall(), is_shed)

        def write(target: Content) -> None:
            if entry.sequence not in target.rows:
                return
            target.remove(entry.sequence)
            target.outcomes.pop(key, None)
            target.finished.pop(key, None)
            target.finished[key], target.outcomes[key] = finished, kept
            while sum(map(len, target.outcomes.values())) > limits.outcome_bytes:
                del target.outcomes[next(iter(target.outcomes))]
            while len(target.finished) > limits.max_finished_ids:
                del target.finished[next(iter(target.finished))]

        return write

    def purge(self, entries: Sequence[Entry], on_done: Callback) -> None:
        for each in entries:
            self._disk.on_purge(each.message_id)
        self._apply(lambda target: [target.remove(entry.sequence) for entry in entries], on_done)

    def forget(self, entry: Entry, on_done: Callback) -> None:
        self._apply(lambda target: target.remove(entry.sequence), on_done)

    def drop_stream(self, stream: str, before_sequence: int, on_done: Callback) -> None:
        def write(target: Content) -> None:
            for sequence, row in list(target.rows.items()):
                if row.entry.stream == stream and sequence < before_sequence:
                    del target.rows[sequence]
            for key in [key for key in target.finished if key[0] == stream]:
                del target.finished[key]
                target.outcomes.pop(key, None)
            target.shed = [record for record in target.shed if record.stream != stream]

        self._apply(write, on_done)

    def outcome(self, stream: str, message_id: str) -> KeptOutcome | None:
        kept = self._live.outcomes.get((stream, message_id))
        return None if kept is None else decode_outcome(kept)

    def death(self, entry: Entry) -> Death | None:
        row = self._live.rows.get(entry.sequence)
        return None if row is None else row.death

    def shed_records(self, stream: str, limit: int) -> tuple[Shed, ...]:
        return tuple([record for record in reversed(self._live.shed) if record.stream == stream][:limit])

    def prune(self, wall: float) -> None:
        def write(target: Content) -> None:
            for key, finished in list(target.finished.items()):
                if finished.finished_at < wall - OUTCOMES_KEPT_S:
                    target.outcomes.pop(key, None)
                if finished.finished_at < wall - FINISHED_KEPT_S:
                    del target.finished[key]

        self._apply(write, None)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._disk.sync_all(self._opening)

    def _apply(self, write: Write, callback: Callback | None) -> None:
        if self._is_open:
            write(self._live)
        self._write(write, callback)

    def _write(self, write: Write, callback: Callback | None) -> None:
        if self._is_open:
            self._disk.write(write, callback, self._opening)
        elif callback is not None:
            callback(StorageError("The backlog's store is closed."))


def _written(entry: Entry) -> Write:
    """Return the write of an entry's counters as they are when it is done."""

    def write(target: Content) -> None:
        row = target.rows.get(entry.sequence)
        if row is not None and row.entry is not entry:
            row.entry = entry.as_stored()

    return write
