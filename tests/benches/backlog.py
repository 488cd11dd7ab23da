"""A backlog with shortcuts for one stream, and a store that acts only when the test says so."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from harmonicio.control.messages import EngineExit
from harmonicio.core.engine import ExitReason
from harmonicio.core.errors import StorageError
from harmonicio.core.message import Failure, Outcome, OutcomeKind
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.backlog import Backlog
from harmonicio.master.backlog.base import Callback, PendingPayload
from harmonicio.master.backlog.budget import LedgerLimits
from harmonicio.master.backlog.entry import Death, Entry, Reservation, Shed
from harmonicio.master.backlog.memory import MemoryStore
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.clock import ManualClock
from harmonicio.wire.events import IncomingMessage
from harmonicio.wire.frames import Flag

DONE = Outcome(OutcomeKind.DONE)
STORED = Outcome(OutcomeKind.STORED)
FATAL = Failure("ValueError", "not an image", "Traceback …", retryable=False)
ERROR = Failure("ValueError", "no cell in sight")
PLATES = StreamDeclaration("plates", handler="/handlers/plates.py", max_attempts=2, max_crashes=2, timeout_s=60.0)


class HeldStore(MemoryStore):
    """A store that does what it is asked only when the test says so, or fails at it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_holding = True
        self.held: list[Callable[[StorageError | None], None]] = []

    def release(self, error: StorageError | None = None) -> None:
        """Do what was asked so far, or fail at it."""
        held, self.held = self.held, []
        for each in held:
            each(error)

    def put(self, entry: Entry, payload: PendingPayload, on_stored: Callback, death: Death | None = None) -> None:
        self._hold(on_stored, lambda: super(HeldStore, self).put(entry, payload, on_stored, death))

    def finish(self, entries: Sequence[Entry], outcome: Outcome, on_done: Callback) -> None:
        self._hold(on_done, lambda: super(HeldStore, self).finish(entries, outcome, on_done))

    def revise(self, entries: Sequence[Entry], on_done: Callback) -> None:
        self._hold(on_done, lambda: super(HeldStore, self).revise(entries, on_done))

    def bury(self, entry: Entry, death: Death, on_done: Callback) -> None:
        self._hold(on_done, lambda: super(HeldStore, self).bury(entry, death, on_done))

    def revive(self, entries: Sequence[Entry], on_done: Callback) -> None:
        self._hold(on_done, lambda: super(HeldStore, self).revive(entries, on_done))

    def purge(self, entries: Sequence[Entry], on_done: Callback) -> None:
        self._hold(on_done, lambda: super(HeldStore, self).purge(entries, on_done))

    def shed(self, entry: Entry, record: Shed, outcome: Outcome, on_done: Callback) -> None:
        self._hold(on_done, lambda: super(HeldStore, self).shed(entry, record, outcome, on_done))

    def forget(self, entry: Entry, on_done: Callback) -> None:
        self._hold(on_done, lambda: super(HeldStore, self).forget(entry, on_done))

    def drop_stream(self, stream: str, before_sequence: int, on_done: Callback) -> None:
        self._hold(on_done, lambda: super(HeldStore, self).drop_stream(stream, before_sequence, on_done))

    def _hold(self, callback: Callback, act: Callable[[], None]) -> None:
        if self.is_holding:
            self.held.append(lambda error: act() if error is None else callback(error))
        else:
            act()


class Desk:
    """A backlog with shortcuts for one stream."""

    def __init__(
        self, store: MemoryStore | SqliteStore, limits: LedgerLimits | None = None, clock: ManualClock | None = None
    ) -> None:
        self.clock = clock or ManualClock()
        self.store = store
        self.backlog = Backlog(store, limits, clock=self.clock, randomness=random.Random(7))
        self.backlog.declare(PLATES)
        self.answers: list[Outcome] = []
        self.finals: list[tuple[str, Outcome | None]] = []

    def put(self, message_id: str, payload: bytes = b"cells", **more: object) -> None:
        self.backlog.put("plates", message(message_id, payload, **more), None, self.answers.append)

    def reserve(self, engine: str = "e1") -> Reservation:
        reservation = reserve_one(self.backlog, "plates", engine, self.clock.monotonic())
        assert reservation is not None
        return reservation

    def subscribe(self, message_id: str) -> None:
        self.backlog.subscribe("plates", message_id, self.final)

    def final(self, message_id: str, outcome: Outcome | None) -> None:
        self.finals.append((message_id, outcome))

    def state(self, message_id: str) -> str | None:
        found = self.backlog.upkeep.outcome("plates", message_id)
        return None if found is None else found.state


def reserve_one(backlog: Backlog, stream: str, holder: str, now: float) -> Reservation | None:
    """Give the next message of a stream to an engine; None when nothing is ready."""
    return next(iter(backlog.reserve(stream, lambda _: holder, now, most=1)), None)


def message(
    message_id: str,
    payload: bytes,
    *,
    flags: int = 0,
    attempts: int = 0,
    priority: int = 0,
    failure: Failure | None = None,
) -> IncomingMessage:
    arrived = IncomingMessage(0, message_id, len(payload), memoryview(payload))
    arrived.flags, arrived.attempts, arrived.priority = flags, attempts, priority
    arrived.is_suspect, arrived.is_dead = bool(flags & Flag.SUSPECT), bool(flags & Flag.DEAD)
    arrived.section, arrived.failure = b"\x80", failure
    return arrived


def crash(desk: Desk, engine: str, text: str = "It ended by signal 9.", held: tuple[str, ...] = ("a",)) -> None:
    """An engine that had the message ends; its controller says so."""
    desk.backlog.engine_gone(f"{engine}#1")
    desk.backlog.engine_exited(EngineExit(engine, "plates", ExitReason.CRASHED, text, held))
