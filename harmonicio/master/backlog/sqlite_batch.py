"""What waits to be written to the index, and how it is written in one transaction.

Within a batch the kinds are written in the order in which they can concern the same entry: put, update, bury, revive,
finish, forget, drop. Counters are read from the entries here and not before, so the newest are written. All else is
encoded before it gets here: what cannot be must not fail what others write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from harmonicio.master.backlog.base import OUTCOMES_KEPT_S, Callback, StoreLimits
from harmonicio.master.backlog.entry import FINISHED_KEPT_S, Entry, Shed
from harmonicio.master.backlog.sqlite_schema import INLINE_MAX_BYTES, INSERT_ENTRY, SCHEMA_VERSION, entry_row

_CHUNK_ROWS = 5_000


class Put(NamedTuple):
    """``payload`` is None when it is in a file, which is on stable storage by now."""

    entry: Entry
    payload: memoryview | None
    death: bytes | None
    on_stored: Callback


class Burial(NamedTuple):
    entry: Entry
    death: bytes
    on_done: Callback


class Ending(NamedTuple):
    """Each entry has its own outcome; what was shed comes alone."""

    entries: Sequence[Entry]
    outcomes: Sequence[bytes]
    finished_at: float
    shed: Shed | None
    on_done: Callback


class Change(NamedTuple):
    """The same for several entries, which all change or none."""

    entries: Sequence[Entry]
    on_done: Callback


class Drop(NamedTuple):
    """All of a stream that arrived before a sequence, and all of its outcomes and records."""

    stream: str
    before_sequence: int
    on_done: Callback


@dataclass(slots=True, repr=False)
class Batch:
    """Everything that one transaction writes."""

    puts: list[Put] = field(default_factory=list)
    updates: list[Entry] = field(default_factory=list)
    revisions: list[Change] = field(default_factory=list)
    burials: list[Burial] = field(default_factory=list)
    revivals: list[Change] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    purges: list[Change] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    prune_at: float | None = None

    def __bool__(self) -> bool:
        return bool(
            self.puts
            or self.updates
            or self.revisions
            or self.burials
            or self.revivals
            or self.endings
            or self.purges
            or self.drops
            or self.prune_at is not None
        )

    def __repr__(self) -> str:
        return (
            f"<Batch of {len(self.puts)} puts, {len(self.updates) + len(self.revisions)} updates, "
            f"{len(self.burials)} burials, {len(self.revivals)} revivals, {len(self.endings)} endings, "
            f"{len(self.purges)} purges, {len(self.drops)} drops>"
        )

    def split_puts(self, max_bytes: int) -> list[Put]:
        """Take out and return the puts beyond so many bytes of payloads in rows; at least one stays."""
        inside_bytes = 0
        for number, put in enumerate(self.puts):
            inside_bytes += 0 if put.payload is None else len(put.payload)
            if inside_bytes > max_bytes and number:
                self.puts, rest = self.puts[:number], self.puts[number:]
                return rest
        return []

    def callbacks(self) -> list[Callback]:
        """Return who wants to know what became of the batch."""
        return [
            *(put.on_stored for put in self.puts),
            *(burial.on_done for burial in self.burials),
            *(ending.on_done for ending in self.endings),
            *(change.on_done for change in (*self.revisions, *self.revivals, *self.purges)),
            *(drop.on_done for drop in self.drops),
        ]

    def entries_updated(self) -> list[Entry]:
        """Return whose counters and priorities are to be written."""
        revised = (entry for revision in self.revisions for entry in revision.entries)
        return [*self.updates, *revised, *(burial.entry for burial in self.burials)]

    def entries_removed(self) -> list[Entry]:
        """Return what is not needed once the batch is written, entries of dropped streams aside."""
        purged = (entry for purge in self.purges for entry in purge.entries)
        return [*(entry for ending in self.endings for entry in ending.entries), *purged]

    def files_put(self) -> list[int]:
        """Return the sequences of new payload files."""
        return [put.entry.sequence for put in self.puts if put.payload is None]

    def files_removed(self) -> list[int]:
        """Return the sequences of files that are not needed once the batch is written, those of drops aside."""
        return [entry.sequence for entry in self.entries_removed() if entry.size_bytes > INLINE_MAX_BYTES]


class BatchWriter:
    """Writes batches over one connection.

    Args:
        connection: Used by one thread at a time.
    """

    def __init__(self, connection: sqlite3.Connection, limits: StoreLimits) -> None:
        self._connection = connection
        self._limits = limits
        #: No row of ``finished`` below this number has an outcome any more.
        self._outcomes_from = 0
        (self._outcome_bytes,) = connection.execute(
            "SELECT CAST(total(length(outcome)) AS INTEGER) FROM finished"
        ).fetchone()
        (self._may_have_shed,) = connection.execute("SELECT EXISTS (SELECT 1 FROM finished WHERE is_shed)").fetchone()

    def write(self, batch: Batch) -> list[int]:
        """Write a batch and flush it; return the sequences of files of dropped streams.

        An empty batch is written, too: it takes the place of one that failed.

        Raises:
            sqlite3.Error: nothing of it was written.
        """
        before = (self._outcomes_from, self._outcome_bytes)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            files = self._write(batch)
            self._connection.execute("COMMIT")
        except BaseException:
            self._outcomes_from, self._outcome_bytes = before
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return files

    def _write(self, batch: Batch) -> list[int]:
        if not batch:
            self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        many = self._connection.executemany
        many(INSERT_ENTRY, [entry_row(put.entry, put.death) for put in batch.puts])
        many(
            "INSERT INTO payloads VALUES (?, ?)",
            [(put.entry.sequence, put.payload) for put in batch.puts if put.payload is not None],
        )
        if self._may_have_shed:
            self._forget_shed([put.entry for put in batch.puts])
        many(
            "UPDATE entries SET priority = ?, attempts = ?, crashes = ?, is_suspect = ? WHERE sequence = ?",
            [_variables(entry) for entry in batch.entries_updated()],
        )
        many(
            "UPDATE entries SET failure = ? WHERE sequence = ?",
            [(burial.death, burial.entry.sequence) for burial in batch.burials],
        )
        many(
            "UPDATE entries SET failure = NULL, attempts = 0, crashes = 0 WHERE sequence = ?",
            [(entry.sequence,) for revival in batch.revivals for entry in revival.entries],
        )
        self._add_shed([ending.shed for ending in batch.endings if self._add_finished(ending) and ending.shed])
        if self._outcome_bytes > self._limits.outcome_bytes:
            self._let_go_of_outcomes(finished_before=0.0)
        self._remove(batch.entries_removed())
        files = [sequence for drop in batch.drops for sequence in self._drop(drop.stream, drop.before_sequence)]
        if batch.prune_at is not None:
            self._prune(batch.prune_at)
        return files

    def _remove(self, entries: list[Entry]) -> None:
        runs = [run[:2] for run in _runs((sequence, b"") for sequence in sorted(entry.sequence for entry in entries))]
        self._connection.executemany("DELETE FROM entries WHERE sequence BETWEEN ? AND ?", runs)
        self._connection.executemany("DELETE FROM payloads WHERE sequence BETWEEN ? AND ?", runs)

    def _add_finished(self, ending: Ending) -> bool:
        """Add rows for those that are still there, and return whether any is.

        A stream may have been deleted, and an id be another message's by now.
        """
        added = 0
        sequences = (entry.sequence for entry in ending.entries)
        for first, last, outcome in _runs(zip(sequences, ending.outcomes, strict=True)):
            rows = self._connection.execute(
                "INSERT INTO finished (stream, message_id, digest, finished_at, outcome, is_shed)"
                " SELECT stream, message_id, digest, ?, ?, ? FROM entries WHERE sequence BETWEEN ? AND ?"
                " ORDER BY sequence",
                (ending.finished_at, outcome, ending.shed is not None, first, last),
            )
            added += rows.rowcount
            self._outcome_bytes += rows.rowcount * len(outcome)
        return added > 0

    def _forget_shed(self, entries: list[Entry]) -> None:
        """What was shed and is put again has not ended (yet)."""
        for entry in entries:
            rows = self._connection.execute(
                "SELECT number, coalesce(length(outcome), 0) FROM finished"
                " WHERE stream = ? AND message_id = ? AND is_shed",
                (entry.stream, entry.message_id),
            ).fetchall()
            self._connection.executemany("DELETE FROM finished WHERE number = ?", [(number,) for number, _ in rows])
            self._outcome_bytes -= sum(size_bytes for _, size_bytes in rows)

    def _add_shed(self, records: list[Shed]) -> None:
        if not records:
            return
        self._may_have_shed = True
        self._connection.executemany(
            "INSERT INTO shed (stream, message_id, priority, size_bytes, shed_at, why) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (each.stream, each.message_id, each.priority, each.size_bytes, each.shed_at, each.why)
                for each in records
            ],
        )
        self._connection.execute(
            "DELETE FROM shed WHERE number <= (SELECT max(number) FROM shed) - ?", (self._limits.max_shed_records,)
        )

    def _drop(self, stream: str, before_sequence: int) -> list[int]:
        which = (stream, before_sequence)
        rows = self._connection.execute(
            "SELECT sequence, size_bytes FROM entries WHERE stream = ? AND sequence < ?", which
        ).fetchall()
        self._connection.executemany("DELETE FROM payloads WHERE sequence = ?", [(row[0],) for row in rows])
        self._connection.execute("DELETE FROM entries WHERE stream = ? AND sequence < ?", which)
        (size_bytes,) = self._connection.execute(
            "SELECT CAST(total(length(outcome)) AS INTEGER) FROM finished WHERE stream = ?", (stream,)
        ).fetchone()
        self._connection.execute("DELETE FROM finished WHERE stream = ?", (stream,))
        self._connection.execute("DELETE FROM shed WHERE stream = ?", (stream,))
        self._outcome_bytes -= size_bytes
        return [sequence for sequence, size_bytes in rows if size_bytes > INLINE_MAX_BYTES]

    # ── forgetting ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _prune(self, wall: float) -> None:
        self._let_go_of_outcomes(finished_before=wall - OUTCOMES_KEPT_S)
        (last,) = self._connection.execute("SELECT coalesce(max(number), 0) FROM finished").fetchone()
        self._forget(wall - FINISHED_KEPT_S, last - self._limits.max_finished_ids)

    def _let_go_of_outcomes(self, finished_before: float) -> None:
        """Forget outcomes, oldest first: those that are too old, and as many as the budget needs."""
        while True:
            rows = self._connection.execute(
                "SELECT number, finished_at, length(outcome) FROM finished WHERE number >= ? AND outcome IS NOT NULL"
                " ORDER BY number LIMIT ?",
                (self._outcomes_from, _CHUNK_ROWS),
            ).fetchall()
            start = self._outcomes_from
            for number, finished_at, size_bytes in rows:
                if finished_at >= finished_before and self._outcome_bytes <= self._limits.outcome_bytes:
                    break
                self._outcome_bytes -= size_bytes
                self._outcomes_from = number + 1
            self._connection.execute(
                "UPDATE finished SET outcome = NULL WHERE number >= ? AND number < ?", (start, self._outcomes_from)
            )
            if not rows or self._outcomes_from <= rows[-1][0]:
                return

    def _forget(self, finished_before: float, up_to_number: int) -> None:
        """Forget ids, oldest first: those that are too old, and those up to a number."""
        while True:
            rows = self._connection.execute(
                "SELECT number, finished_at FROM finished ORDER BY number LIMIT ?", (_CHUNK_ROWS,)
            ).fetchall()
            gone = 0
            for number, finished_at in rows:
                if finished_at >= finished_before and number > up_to_number:
                    break
                gone = number
            self._connection.execute("DELETE FROM finished WHERE number <= ?", (gone,))
            if not rows or gone < rows[-1][0]:
                return


def _runs(ended: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, int, bytes]]:
    """Return the first and the last of those that stand side by side and end alike: one statement serves them all."""
    run: tuple[int, int, bytes] | None = None
    for sequence, outcome in ended:
        if run is not None and run[1] <= sequence <= run[1] + 1 and outcome == run[2]:
            run = (run[0], sequence, outcome)
            continue
        if run is not None:
            yield run
        run = (sequence, sequence, outcome)
    if run is not None:
        yield run


def _variables(entry: Entry) -> tuple[int, int, int, bool, int]:
    return entry.priority, entry.attempts, entry.crashes, entry.is_suspect, entry.sequence
