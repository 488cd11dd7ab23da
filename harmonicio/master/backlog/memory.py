"""The in-memory member: for tests, and for clusters whose backlog need not outlive the master."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from harmonicio.core.clock import Clock, SystemClock
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
from harmonicio.master.backlog.entry import FINISHED_KEPT_S, Death, Entry, Finished, Shed
from harmonicio.master.backlog.outcome_codec import KeptOutcome, decode_outcome, encode_outcome


class MemoryStore(BacklogStore):
    """Keeps everything in memory and calls back at once, on the caller's thread.

    What it holds outlives :meth:`close`, so that a second :meth:`recover` finds it as after a restart.
    """

    def __init__(self, limits: StoreLimits | None = None, clock: Clock | None = None) -> None:
        self._limits = limits or StoreLimits()
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._entries: dict[int, Entry] = {}
        self._payloads: dict[int, memoryview] = {}
        self._deaths: dict[int, Death] = {}
        self._shed: deque[Shed] = deque(maxlen=self._limits.max_shed_records)
        self._finished: OrderedDict[tuple[str, str], Finished] = OrderedDict()
        self._outcomes: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._outcome_bytes = 0
        self._is_open = False

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._entries)} entries, {len(self._outcomes)} outcomes>"

    def recover(self) -> Recovery:
        with self._lock:
            self._is_open = True
            entries = [entry.as_stored() for _, entry in sorted(self._entries.items())]
            self._entries = {entry.sequence: entry for entry in entries}
            for sequence, death in self._deaths.items():
                self._entries[sequence].death_bytes = death_bytes(death.failure)
            return Recovery(
                tuple(entry for entry in entries if entry.sequence not in self._deaths),
                tuple(entry for entry in entries if entry.sequence in self._deaths),
                tuple(self._finished.values()),
            )

    def new_payload(self, sequence: int, size_bytes: int, *, to_disk: bool) -> PendingPayload:
        try:
            return MemoryPayload(size_bytes)
        except MemoryError:
            raise StorageError(f"There is no memory for a payload of {size_bytes} bytes.") from None

    def put(self, entry: Entry, payload: PendingPayload, on_stored: Callback, death: Death | None = None) -> None:
        with self._lock:
            is_open = self._is_open
            if is_open:
                self._entries[entry.sequence] = entry
                self._payloads[entry.sequence] = payload.buffer.toreadonly()
                if death is not None:
                    self._deaths[entry.sequence] = death
                key = (entry.stream, entry.message_id)
                if (ended := self._finished.get(key)) is not None and ended.is_shed:
                    del self._finished[key]
                    self._drop_outcome(key)
        on_stored(None if is_open else StorageError("The backlog's store is closed."))

    def read(self, entry: Entry) -> PayloadLease:
        with self._lock:
            payload = self._payloads.get(entry.sequence)
        if payload is None:
            raise damaged(f"There is no payload of message {entry.message_id!r}.")
        return PayloadLease(payload)

    def update(self, entry: Entry) -> None:
        """Nothing to do: entries are kept as they are."""

    def revise(self, entries: Sequence[Entry], on_done: Callback) -> None:
        on_done(None)

    def bury(self, entry: Entry, death: Death, on_done: Callback) -> None:
        with self._lock:
            if entry.sequence in self._entries:
                self._deaths[entry.sequence] = death
        on_done(None)

    def revive(self, entries: Sequence[Entry], on_done: Callback) -> None:
        with self._lock:
            for entry in entries:
                self._deaths.pop(entry.sequence, None)
                kept = self._entries.get(entry.sequence, entry)
                kept.attempts = kept.crashes = 0
        on_done(None)

    def finish(self, entries: Sequence[Entry], outcome: Outcome, on_done: Callback) -> None:
        for entry in entries:
            self._finish(entry, KeptOutcome(outcome, entry.attempts + 1))
        on_done(None)

    def shed(self, entry: Entry, record: Shed, outcome: Outcome, on_done: Callback) -> None:
        self._finish(entry, KeptOutcome(outcome, entry.attempts), record)
        on_done(None)

    def _finish(self, entry: Entry, outcome: KeptOutcome, record: Shed | None = None) -> None:
        key = (entry.stream, entry.message_id)
        kept = encode_outcome(outcome)
        finished = Finished(entry.stream, entry.message_id, entry.digest, self._clock.wall(), record is not None)
        with self._lock:
            if entry.sequence not in self._entries:
                return
            if record is not None:
                self._shed.append(record)
            self._remove(entry.sequence)
            self._drop_outcome(key)
            self._finished.pop(key, None)
            self._finished[key] = finished
            self._outcomes[key] = kept
            self._outcome_bytes += len(kept)
            while self._outcome_bytes > self._limits.outcome_bytes:
                self._drop_outcome(next(iter(self._outcomes)))
            while len(self._finished) > self._limits.max_finished_ids:
                self._finished.popitem(last=False)

    def forget(self, entry: Entry, on_done: Callback) -> None:
        with self._lock:
            self._remove(entry.sequence)
        on_done(None)

    def purge(self, entries: Sequence[Entry], on_done: Callback) -> None:
        with self._lock:
            for entry in entries:
                self._remove(entry.sequence)
        on_done(None)

    def drop_stream(self, stream: str, before_sequence: int, on_done: Callback) -> None:
        with self._lock:
            for entry in list(self._entries.values()):
                if entry.stream == stream and entry.sequence < before_sequence:
                    self._remove(entry.sequence)
            for key in [key for key in self._finished if key[0] == stream]:
                del self._finished[key]
                self._drop_outcome(key)
            kept = [record for record in self._shed if record.stream != stream]
            self._shed.clear()
            self._shed.extend(kept)
        on_done(None)

    def outcome(self, stream: str, message_id: str) -> KeptOutcome | None:
        with self._lock:
            kept = self._outcomes.get((stream, message_id))
        return None if kept is None else decode_outcome(kept)

    def death(self, entry: Entry) -> Death | None:
        with self._lock:
            return self._deaths.get(entry.sequence)

    def shed_records(self, stream: str, limit: int) -> tuple[Shed, ...]:
        with self._lock:
            return tuple(islice((record for record in reversed(self._shed) if record.stream == stream), limit))

    def prune(self, wall: float) -> None:
        with self._lock:
            while self._outcomes and self._is_past(key := next(iter(self._outcomes)), wall - OUTCOMES_KEPT_S):
                self._drop_outcome(key)
            while self._finished and self._is_past(key := next(iter(self._finished)), wall - FINISHED_KEPT_S):
                del self._finished[key]

    def _is_past(self, key: tuple[str, str], wall: float) -> bool:
        finished = self._finished.get(key)
        return finished is None or finished.finished_at < wall

    def close(self) -> None:
        with self._lock:
            self._is_open = False

    def _remove(self, sequence: int) -> None:
        self._entries.pop(sequence, None)
        self._payloads.pop(sequence, None)
        self._deaths.pop(sequence, None)

    def _drop_outcome(self, key: tuple[str, str]) -> None:
        kept = self._outcomes.pop(key, None)
        self._outcome_bytes -= 0 if kept is None else len(kept)


def create(folder: Path, limits: StoreLimits) -> MemoryStore:
    """Return a store in memory; the folder is not used."""
    return MemoryStore(limits)
