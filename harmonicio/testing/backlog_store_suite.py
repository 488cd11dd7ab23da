"""What every backlog store must do: inherit :class:`BacklogStoreSuite` and say how to make one and how to make it anew.

class TestMyStore(BacklogStoreSuite):
    def make(self, folder: Path, limits: StoreLimits, clock: Clock) -> BacklogStore: ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harmonicio.core.clock import Clock
from harmonicio.core.errors import StorageError
from harmonicio.core.message import Failure, Outcome, OutcomeKind
from harmonicio.master.backlog.base import BacklogStore, Recovery, StoreLimits
from harmonicio.master.backlog.entry import Death, Entry, Shed
from harmonicio.master.backlog.outcome_codec import KeptOutcome
from harmonicio.testing.clock import ManualClock
from harmonicio.testing.open_store import DEATH, OpenStore, Told

SIZES_BYTES = (0, 1, 1_000, 64 * 1024, 64 * 1024 + 1, 300_000)


class BacklogStoreSuite(ABC):
    """The contract of :class:`~harmonicio.master.backlog.base.BacklogStore`."""

    limits = StoreLimits(outcome_bytes=2_000, max_finished_ids=50, max_shed_records=20)

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
        opened.forget(entry)
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
    def test_what_is_finished_is_replaced_by_its_outcome(
        self, reopen: Callable[[], OpenStore], size_bytes: int
    ) -> None:
        opened = reopen()
        entry = opened.put(1, b"x" * size_bytes, attempts=1)
        outcome = Outcome(OutcomeKind.DONE, result={"cells": 3, "mask": b"\x00\x01"})
        opened.finish(entry, outcome=outcome)
        for _ in range(2):
            kept = opened.store.outcome("plates", "m1")
            assert kept is not None and (kept.outcome, kept.attempts) == (outcome, 2)
            assert opened.store.outcome("plates", "m2") is None
            assert opened.store.outcome("wells", "m1") is None
            opened = reopen()
        with pytest.raises(StorageError):
            opened.read(entry)
        assert opened.recovery.entries == ()
        assert [(done.message_id, done.digest) for done in opened.recovery.finished] == [("m1", entry.digest)]

    def test_messages_that_end_together_have_each_its_own_outcome(self, reopen: Callable[[], OpenStore]) -> None:
        opened, sizes_bytes = reopen(), {1: 10, 2: 100_000, 3: 10, 5: 10, 6: 100_000, 8: 10}
        entries = {each: opened.put(each, b"x" * size, attempts=each % 2) for each, size in sizes_bytes.items()}
        opened.forget(entries[2])
        opened.finish(*(entries[each] for each in (6, 1, 2, 3, 8)))
        kept = [opened.store.outcome("plates", entry.message_id) for entry in entries.values()]
        assert [found and found.attempts for found in kept] == [2, None, 2, None, 1, 1]
        opened = reopen()
        assert [(entry.message_id, opened.read(entry)) for entry in opened.recovery.entries] == [("m5", b"x" * 10)]

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
            opened.finish(opened.put(sequence, b"x"), outcome=Outcome(OutcomeKind.DONE, result="r" * 200))
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
        assert opened.store.death(entry) is None
        entry.attempts = 3
        opened.bury(entry)
        assert opened.store.death(entry) == DEATH
        opened = reopen()
        assert opened.recovery.entries == ()
        (dead,) = opened.recovery.dead
        assert (dead.message_id, dead.attempts) == ("m1", 3)
        assert opened.store.death(dead) == DEATH
        assert opened.read(dead) == b"x" * 100_000

    def test_texts_that_no_disk_can_keep_fail_neither_their_burial_nor_what_is_written_beside_it(
        self, reopen: Callable[[], OpenStore]
    ) -> None:
        opened = reopen()
        death = replace(DEATH, engine="cells-\udcff", image="sha256:\ud800")
        entries = [opened.put(1, b"cells"), opened.put(2, b"cells", death=death)]
        opened.bury(entries[0], death)
        opened.put(3, b"cells")
        opened = reopen()
        assert [entry.sequence for entry in opened.recovery.dead] == [1, 2]
        for entry in opened.recovery.dead:
            kept = opened.store.death(entry)
            assert kept is not None and kept.failure == DEATH.failure and kept.engine.startswith("cells-")

    def test_a_message_can_be_dead_from_the_start(self, reopen: Callable[[], OpenStore]) -> None:
        entry = reopen().put(1, b"x", death=DEATH)
        opened = reopen()
        assert [dead.sequence for dead in opened.recovery.dead] == [entry.sequence]
        assert opened.store.death(opened.recovery.dead[0]) == DEATH

    @pytest.mark.parametrize("size_bytes", [10, 100_000])
    def test_a_revived_dead_letter_waits_again_as_if_it_had_never_been_tried(
        self, reopen: Callable[[], OpenStore], size_bytes: int
    ) -> None:
        opened = reopen()
        revived, left = (
            opened.put(number, b"x" * size_bytes, death=DEATH, attempts=3, crashes=2, priority=5, put_at=9.0)
            for number in (1, 2)
        )
        opened.revive(revived)
        assert opened.store.death(revived) is None
        assert opened.store.death(left) == DEATH
        opened = reopen()
        assert [dead.message_id for dead in opened.recovery.dead] == ["m2"]
        (found,) = opened.recovery.entries
        assert (found.message_id, found.priority, found.put_at) == ("m1", 5, 9.0)
        assert (found.attempts, found.crashes) == (0, 0)
        assert opened.read(found) == b"x" * size_bytes

    def test_what_was_revived_can_die_again(self, reopen: Callable[[], OpenStore]) -> None:
        opened = reopen()
        entry = opened.put(1, b"x", death=DEATH)
        opened.revive(entry)
        again = Death(Failure("EngineCrashed", "Engines that crashed: 3."), 1_700_000_010.0)
        opened.bury(entry, again)
        opened = reopen()
        assert [opened.store.death(dead) for dead in opened.recovery.dead] == [again]

    @pytest.mark.parametrize("size_bytes", [10, 100_000])
    def test_a_purged_dead_letter_is_gone(self, reopen: Callable[[], OpenStore], size_bytes: int) -> None:
        opened = reopen()
        purged, left = (opened.put(number, b"x" * size_bytes, death=DEATH) for number in (1, 2))
        opened.purge(purged)
        opened = reopen()
        assert [dead.message_id for dead in opened.recovery.dead] == ["m2"]
        assert (opened.recovery.entries, opened.recovery.finished) == ((), ())
        assert opened.read(left) == b"x" * size_bytes
        with pytest.raises(StorageError):
            opened.read(purged)

    def test_a_revised_priority_is_on_stable_storage(self, reopen: Callable[[], OpenStore]) -> None:
        opened = reopen()
        entries = [opened.put(number, b"x", priority=number) for number in (1, 2, 3)]
        entries[0].priority, entries[2].priority = 9, -9
        opened.revise(entries[0], entries[2])
        assert [found.priority for found in reopen().recovery.entries] == [9, 2, -9]

    @pytest.mark.parametrize("size_bytes", [10, 100_000])
    def test_a_shed_message_is_replaced_by_its_outcome_and_a_record(
        self, reopen: Callable[[], OpenStore], size_bytes: int
    ) -> None:
        opened = reopen()
        entry = opened.put(1, b"x" * size_bytes, attempts=1)
        record = Shed("plates", "m1", -3, size_bytes, 1_700_000_001.5, "The backlog was full.")
        opened.shed(entry, record)
        for _ in range(2):
            assert opened.store.shed_records("plates", 10) == (record,)
            assert opened.store.shed_records("wells", 10) == ()
            kept = opened.store.outcome("plates", "m1")
            assert kept is not None and kept.attempts == 1
            assert kept.outcome.failure == Failure("Shed", "The backlog was full.", retryable=False)
            opened = reopen()
        assert (opened.recovery.entries, opened.recovery.dead) == ((), ())
        assert [finished.message_id for finished in opened.recovery.finished] == ["m1"]

    @pytest.mark.parametrize("is_reopened", [False, True])
    def test_what_was_shed_and_is_put_again_has_not_ended_by_that(
        self, reopen: Callable[[], OpenStore], is_reopened: bool
    ) -> None:
        opened = reopen()
        opened.finish(opened.put(1, b"x", message_id="b"))
        record = Shed("plates", "a", 0, 1, 0.0, "The backlog was full.")
        opened.shed(opened.put(2, b"x", message_id="a"), record)
        opened = reopen() if is_reopened else opened
        again, other = opened.put(3, b"x", message_id="a"), opened.put(4, b"x", message_id="b")
        assert opened.store.outcome("plates", "a") is None
        opened.purge(again, other)
        assert opened.store.outcome("plates", "a") is None
        assert opened.store.outcome("plates", "b") == KeptOutcome(Outcome(OutcomeKind.DONE), 1)
        assert opened.store.shed_records("plates", 10) == (record,), "that is still said"
        assert [done.message_id for done in reopen().recovery.finished] == ["b"]

    def test_records_of_what_was_shed_are_bounded_and_the_latest_are_kept(
        self, reopen: Callable[[], OpenStore]
    ) -> None:
        opened = reopen()
        for number in range(1, 31):
            record = Shed("plates", f"m{number}", 0, 1, float(number), "The backlog was full.")
            opened.shed(opened.put(number, b"x"), record)
        for _ in range(2):
            latest = opened.store.shed_records("plates", 3)
            assert [record.message_id for record in latest] == ["m30", "m29", "m28"]
            assert len(opened.store.shed_records("plates", 1_000)) == 20
            opened = reopen()

    # ── streams and closing ──────────────────────────────────────────────────────────────────────────────────────────

    def test_what_was_dropped_leaves_no_outcome_and_no_record_behind(self, reopen: Callable[[], OpenStore]) -> None:
        opened = reopen()
        finished, shed = opened.put(1, b"x", message_id="a"), opened.put(2, b"x", message_id="b")
        opened.drop_stream("plates", 3)
        opened.put(4, b"x", message_id="a")
        opened.finish(finished)
        opened.shed(shed, Shed("plates", "b", 0, 5, 0.0, "It was full."))
        assert (opened.store.outcome("plates", "a"), opened.store.outcome("plates", "b")) == (None, None)
        assert opened.store.shed_records("plates", 10) == ()

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
        opened.shed(opened.put(7, b"x"), Shed("plates", "m7", 0, 1, 0.0, "The backlog was full."))
        opened.put(8, b"later")
        opened.drop_stream("plates", 7)
        opened = reopen()
        assert [entry.sequence for entry in opened.recovery.entries] == [3, 8]
        assert opened.recovery.dead == ()
        assert [done.message_id for done in opened.recovery.finished] == ["m5"]
        assert opened.store.outcome("plates", "m4") is None
        assert opened.store.shed_records("plates", 10) == ()
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
