"""What every backlog store must do: inherit :class:`BacklogStoreSuite` and say how to make one and how to make it anew.

class TestMyStore(BacklogStoreSuite):
    def make(self, folder: Path, limits: StoreLimits, clock: Clock) -> BacklogStore: ...
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harmonicio.core.clock import Clock
from harmonicio.core.errors import StorageError
from harmonicio.core.message import Failure, Outcome, OutcomeKind
from harmonicio.master.backlog.base import BacklogStore, Recovery, StoreLimits
from harmonicio.master.backlog.digest import digest_of
from harmonicio.master.backlog.entry import Entry
from harmonicio.testing.clock import ManualClock

SEVERAL_SECONDS = 20.0
SIZES_BYTES = (0, 1, 1_000, 64 * 1024, 64 * 1024 + 1, 300_000)

DONE = Outcome(OutcomeKind.DONE)
FAILURE = Failure("ValueError", "no cell in sight", "Traceback …", retryable=False)


class Told:
    """A callback that remembers what it was told, and by which thread."""

    def __init__(self) -> None:
        self.errors: list[StorageError | None] = []
        self._event = threading.Event()

    def __call__(self, error: StorageError | None) -> None:
        self.errors.append(error)
        self._event.set()

    def wait(self) -> StorageError | None:
        """Return what it was told, within several seconds."""
        assert self._event.wait(SEVERAL_SECONDS), "the store did not call back"
        return self.errors[0]


class OpenStore:
    """A store with shortcuts that wait for what they ask."""

    def __init__(self, store: BacklogStore) -> None:
        self.store = store
        self.recovery = store.recover()

    def put(
        self, sequence: int, payload: bytes, *, to_disk: bool = False, failure: Failure | None = None, **more: object
    ) -> Entry:
        """Put a message and wait until it is stored."""
        entry, told = self.put_later(sequence, payload, to_disk=to_disk, failure=failure, **more)
        assert told.wait() is None
        return entry

    def put_later(
        self, sequence: int, payload: bytes, *, to_disk: bool = False, failure: Failure | None = None, **more: object
    ) -> tuple[Entry, Told]:
        given: dict[str, object] = {"stream": "plates", "message_id": f"m{sequence}", "digest": digest_of(payload)}
        entry = Entry(sequence=sequence, size_bytes=len(payload), **(given | more))  # type: ignore[arg-type]
        pending = self.store.new_payload(sequence, len(payload), to_disk=to_disk)
        pending.buffer[:] = payload
        told = Told()
        self.store.put(entry, pending, told, failure)
        return entry, told

    def read(self, entry: Entry) -> bytes:
        with self.store.read(entry) as payload:
            return bytes(payload.view)

    def finish(self, entry: Entry, outcome: Outcome = DONE) -> None:
        self._wait(lambda told: self.store.finish(entry, outcome, told))

    def bury(self, entry: Entry, failure: Failure = FAILURE) -> None:
        self._wait(lambda told: self.store.bury(entry, failure, told))

    def _wait(self, ask: Callable[[Told], None]) -> None:
        told = Told()
        ask(told)
        assert told.wait() is None


class BacklogStoreSuite(ABC):
    """The contract of :class:`~harmonicio.master.backlog.base.BacklogStore`."""

    limits = StoreLimits(outcome_bytes=2_000, max_finished_ids=50)

    @abstractmethod
    def make(self, folder: Path, limits: StoreLimits, clock: Clock) -> BacklogStore:
        """Return a store over this folder, not opened; called again for the same folder, one that finds the same."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def reopen(self, tmp_path: Path, clock: ManualClock) -> Iterator[Callable[[], OpenStore]]:
        """Close the store that is open, if there is one, and open it anew."""
        opened: list[OpenStore] = []

        def reopen() -> OpenStore:
            for each in opened:
                each.store.close()
            opened.append(OpenStore(self.make(tmp_path / "backlog", self.limits, clock)))
            return opened[-1]

        yield reopen
        for each in opened:
            each.store.close()

    @pytest.fixture
    def opened(self, reopen: Callable[[], OpenStore]) -> OpenStore:
        return reopen()

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def test_a_new_store_is_empty(self, opened: OpenStore) -> None:
        assert opened.recovery == Recovery()

    @pytest.mark.parametrize("size_bytes", SIZES_BYTES)
    @pytest.mark.parametrize("to_disk", [False, True])
    def test_a_payload_is_read_as_it_was_put(
        self, reopen: Callable[[], OpenStore], size_bytes: int, to_disk: bool
    ) -> None:
        payload = bytes(number % 251 for number in range(size_bytes))
        opened = reopen()
        entry = opened.put(1, payload, to_disk=to_disk)
        assert opened.read(entry) == payload
        opened = reopen()
        assert opened.read(opened.recovery.entries[0]) == payload

    def test_a_message_comes_back_with_everything_that_is_known_of_it(self, reopen: Callable[[], OpenStore]) -> None:
        entry = reopen().put(
            7,
            b"cells",
            message_id="plate 7 – ½",
            priority=-3,
            section=b"\x81\xa1a\x01",
            attempts=2,
            crashes=1,
            is_suspect=True,
            put_at=1_700_000_001.5,
        )
        (found,) = reopen().recovery.entries
        assert _facts(found) == _facts(entry)

    def test_messages_come_back_in_the_order_of_their_sequences(self, reopen: Callable[[], OpenStore]) -> None:
        opened = reopen()
        for sequence in (3, 1, 300, 2):
            opened.put(sequence, b"x" * sequence)
        assert [entry.sequence for entry in reopen().recovery.entries] == [1, 2, 3, 300]

    def test_many_messages_at_once_are_all_stored(self, reopen: Callable[[], OpenStore]) -> None:
        opened = reopen()
        puts = [opened.put_later(sequence, bytes([sequence]) * (sequence * 2_000)) for sequence in range(1, 60)]
        assert [told.wait() for _, told in puts] == [None] * len(puts)
        opened = reopen()
        assert [opened.read(entry) for entry in opened.recovery.entries] == [
            bytes([sequence]) * (sequence * 2_000) for sequence in range(1, 60)
        ]

    def test_counters_are_written_as_they_are_at_last(self, reopen: Callable[[], OpenStore]) -> None:
        opened = reopen()
        entry = opened.put(1, b"x")
        for attempts in (1, 2, 3):
            entry.attempts, entry.crashes, entry.is_suspect = attempts, attempts - 1, True
            opened.store.update(entry)
        (found,) = reopen().recovery.entries
        assert (found.attempts, found.crashes, found.is_suspect) == (3, 2, True)

    @pytest.mark.parametrize("size_bytes", [10, 100_000])
    def test_a_forgotten_message_is_gone(self, reopen: Callable[[], OpenStore], size_bytes: int) -> None:
        opened = reopen()
        entry, other = opened.put(1, b"x" * size_bytes), opened.put(2, b"y" * size_bytes)
        opened.store.forget(entry)
        opened = reopen()
        assert [found.sequence for found in opened.recovery.entries] == [2]
        assert opened.read(opened.recovery.entries[0]) == b"y" * size_bytes
        assert other.sequence == 2
        with pytest.raises(StorageError):
            opened.read(entry)

    def test_a_discarded_payload_leaves_nothing(self, reopen: Callable[[], OpenStore]) -> None:
        opened = reopen()
        for to_disk in (False, True):
            pending = opened.store.new_payload(1, 100_000, to_disk=to_disk)
            pending.buffer[:3] = b"abc"
            pending.discard()
            pending.discard()
        assert reopen().recovery == Recovery()

    def test_a_payload_can_be_discarded_while_somebody_still_fills_it(self, opened: OpenStore) -> None:
        pending = opened.store.new_payload(1, 100_000, to_disk=True)
        held = pending.buffer[10:20]
        pending.discard()
        held[:] = b"0123456789"
        assert bytes(held) == b"0123456789"

    def test_a_view_outlives_the_message_as_long_as_it_is_leased(self, opened: OpenStore) -> None:
        for size_bytes in (10, 100_000):
            entry = opened.put(size_bytes, b"x" * size_bytes, to_disk=True)
            with opened.store.read(entry) as payload:
                opened.finish(entry)
                assert bytes(payload.view) == b"x" * size_bytes

    # ── outcomes and dead letters ────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("size_bytes", [10, 100_000])
    def test_a_finished_message_is_replaced_by_its_outcome(
        self, reopen: Callable[[], OpenStore], size_bytes: int
    ) -> None:
        opened = reopen()
        entry = opened.put(1, b"x" * size_bytes, attempts=1)
        outcome = Outcome(OutcomeKind.DONE, result={"cells": 3, "mask": b"\x00\x01"})
        opened.finish(entry, outcome)
        for _ in range(2):
            kept = opened.store.outcome("plates", "m1")
            assert kept is not None and (kept.outcome, kept.attempts) == (outcome, 2)
            assert opened.store.outcome("plates", "m2") is None
            assert opened.store.outcome("wells", "m1") is None
            opened = reopen()
        with pytest.raises(StorageError):
            opened.read(entry)
        found = opened.recovery
        assert found.entries == () and [done.message_id for done in found.finished] == ["m1"]
        assert found.finished[0].digest == entry.digest

    def test_outcomes_are_let_go_after_an_hour_and_ids_after_a_day(
        self, reopen: Callable[[], OpenStore], clock: ManualClock
    ) -> None:
        opened = reopen()
        opened.finish(opened.put(1, b"x"))
        clock.advance(3_000)
        opened.finish(opened.put(2, b"x"))
        clock.advance(700)
        opened.store.prune(clock.wall())
        opened = reopen()
        assert opened.store.outcome("plates", "m1") is None
        assert opened.store.outcome("plates", "m2") is not None
        assert [done.message_id for done in opened.recovery.finished] == ["m1", "m2"]
        clock.advance(24 * 3600 - 3_000)
        opened.store.prune(clock.wall())
        opened = reopen()
        assert opened.store.outcome("plates", "m2") is None
        assert [done.message_id for done in opened.recovery.finished] == ["m2"]

    def test_outcomes_are_bounded_in_bytes_and_the_oldest_go_first(self, reopen: Callable[[], OpenStore]) -> None:
        opened = reopen()
        for sequence in range(1, 31):
            opened.finish(opened.put(sequence, b"x"), Outcome(OutcomeKind.DONE, result="r" * 200))
        kept = [number for number in range(1, 31) if opened.store.outcome("plates", f"m{number}") is not None]
        assert kept == list(range(31 - len(kept), 31))
        assert 5 <= len(kept) <= 9

    def test_finished_ids_are_bounded_in_number(self, reopen: Callable[[], OpenStore], clock: ManualClock) -> None:
        opened = reopen()
        for sequence in range(1, 71):
            opened.finish(opened.put(sequence, b"x"))
        opened.store.prune(clock.wall())
        found = [int(done.message_id[1:]) for done in reopen().recovery.finished]
        assert found == list(range(21, 71))

    def test_a_buried_message_comes_back_as_a_dead_letter_with_its_reason(
        self, reopen: Callable[[], OpenStore]
    ) -> None:
        opened = reopen()
        entry = opened.put(1, b"x" * 100_000)
        assert opened.store.failure(entry) is None
        entry.attempts = 3
        opened.bury(entry)
        assert opened.store.failure(entry) == FAILURE
        opened = reopen()
        assert opened.recovery.entries == ()
        (dead,) = opened.recovery.dead
        assert (dead.message_id, dead.attempts) == ("m1", 3)
        assert opened.store.failure(dead) == FAILURE
        assert opened.read(dead) == b"x" * 100_000

    def test_a_message_can_be_dead_from_the_start(self, reopen: Callable[[], OpenStore]) -> None:
        entry = reopen().put(1, b"x", failure=FAILURE)
        opened = reopen()
        assert [dead.sequence for dead in opened.recovery.dead] == [entry.sequence]
        assert opened.store.failure(opened.recovery.dead[0]) == FAILURE

    # ── streams and closing ──────────────────────────────────────────────────────────────────────────────────────────

    def test_a_dropped_stream_leaves_only_what_arrived_later_and_other_streams(
        self, reopen: Callable[[], OpenStore]
    ) -> None:
        opened = reopen()
        opened.put(1, b"x")
        opened.put(2, b"x" * 100_000)
        opened.put(3, b"x", stream="wells")
        opened.finish(opened.put(4, b"x"))
        opened.finish(opened.put(5, b"x", stream="wells"))
        opened.bury(opened.put(6, b"x"))
        opened.put(8, b"later")
        opened.store.drop_stream("plates", before_sequence=7)
        opened = reopen()
        assert [entry.sequence for entry in opened.recovery.entries] == [3, 8]
        assert opened.recovery.dead == ()
        assert [done.message_id for done in opened.recovery.finished] == ["m5"]
        assert opened.store.outcome("plates", "m4") is None
        assert [opened.read(entry) for entry in opened.recovery.entries] == [b"x", b"later"]

    def test_closing_writes_what_waits_and_may_be_repeated(self, reopen: Callable[[], OpenStore]) -> None:
        opened = reopen()
        puts = [opened.put_later(sequence, b"x" * (sequence * 5_000)) for sequence in range(1, 40)]
        opened.store.close()
        opened.store.close()
        assert [told.errors for _, told in puts] == [[None]] * len(puts)
        assert len(reopen().recovery.entries) == len(puts)

    def test_a_closed_store_answers_with_an_error(self, opened: OpenStore) -> None:
        entry = opened.put(1, b"x")
        late = opened.store.new_payload(2, 1, to_disk=False)
        opened.store.close()
        told = Told()
        opened.store.put(Entry("plates", "m2", 2, 1), late, told)
        assert isinstance(told.wait(), StorageError)
        opened.store.update(entry)


def _facts(entry: Entry) -> dict[str, object]:
    return {name: getattr(entry, name) for name in Entry.__slots__ if name not in ("state", "not_before")}
