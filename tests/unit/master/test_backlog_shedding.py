"""What goes when the backlog is full: only where the stream says so, the least first, and never without a record."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benches.backlog import DONE, ERROR, FATAL, PLATES, STORED, Desk, HeldStore
from harmonicio.control.backlog_messages import DeadChoice
from harmonicio.core.errors import BacklogFull, InvalidInput, StorageError
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.core.stream import SHED
from harmonicio.master.backlog.base import OUTCOMES_KEPT_S
from harmonicio.master.backlog.budget import LedgerLimits
from harmonicio.master.backlog.clerk import REPEAT_INTERVAL_S
from harmonicio.master.backlog.entry import ENTRY_OVERHEAD_BYTES, Entry, RetryPolicy, State
from harmonicio.master.backlog.ledger import Ledger
from harmonicio.master.backlog.memory import MemoryStore
from harmonicio.master.backlog.shedding import Shedding
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.frames import Flag

SHEDDING = replace(PLATES, when_full=SHED)
#: A section of one byte goes with each message.
COST_BYTES = ENTRY_OVERHEAD_BYTES + 1
ROOM_FOR_THREE = LedgerLimits(max_bytes=3 * (COST_BYTES + 100))


def full_desk(store: MemoryStore | SqliteStore | None = None, *, is_shedding: bool = True) -> Desk:
    """A backlog with room for three messages of 100 bytes, all of which wait."""
    desk = Desk(store or MemoryStore(), ROOM_FOR_THREE)
    if is_shedding:
        desk.backlog.declare(SHEDDING)
    for message_id, priority in (("a", 2), ("b", 1), ("c", 1)):
        desk.put(message_id, bytes(100), priority=priority)
    wait_until(lambda: desk.answers == [STORED] * 3)
    return desk


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = full_desk()
    yield desk
    desk.backlog.close()


def states(desk: Desk, message_ids: str) -> list[str | None]:
    return [desk.state(each) for each in message_ids]


def test_the_oldest_of_the_lowest_priority_makes_room_and_leaves_a_record(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.subscribe("b")
    with caplog.at_level(logging.WARNING):
        desk.put("d", bytes(100), priority=1)
    assert (desk.answers[-1], states(desk, "abcd")) == (STORED, ["waiting", "shed", "waiting", "waiting"])
    ((message_id, outcome),) = desk.finals
    assert message_id == "b" and outcome is not None and outcome.kind is OutcomeKind.FAILED
    assert outcome.failure is not None and (outcome.failure.error_type, outcome.failure.retryable) == ("Shed", False)
    assert "The backlog was full when a message of priority 1 and 100 bytes came." in outcome.failure.text
    (record,) = desk.backlog.upkeep.backlog("plates", 10).shed
    assert (record.message, record.priority, record.size_bytes, record.why) == ("b", 1, 100, outcome.failure.text)
    figures = desk.backlog.figures("plates")
    assert (figures.ready, figures.shed_total, figures.dead) == (3, 1, 0)
    assert "the last was 'b' of stream 'plates'" in caplog.text


def test_a_newcomer_of_lower_priority_than_all_that_waits_is_refused(desk: Desk) -> None:
    desk.put("d", bytes(100), priority=0)
    assert desk.answers[-1].reason is RejectReason.BACKLOG_FULL
    assert (states(desk, "abcd"), desk.backlog.figures("plates").shed_total) == (["waiting"] * 3 + [None], 0)


def test_nothing_is_shed_of_a_stream_that_does_not_say_so() -> None:
    desk = full_desk(is_shedding=False)
    assert not desk.backlog.can_take(100, "plates")
    desk.put("d", bytes(100), priority=9)
    assert desk.answers[-1].reason is RejectReason.BACKLOG_FULL
    assert desk.backlog.figures("plates").ready == 3
    desk.backlog.close()


def test_a_message_makes_no_room_for_another_stream(desk: Desk) -> None:
    desk.backlog.declare(replace(SHEDDING, name="wells"))
    assert not desk.backlog.can_take(100, "wells")
    with pytest.raises(BacklogFull):
        desk.backlog.new_payload("wells", 100, "d", 9)
    assert states(desk, "abc") == ["waiting"] * 3


def test_what_an_engine_has_is_not_shed_and_what_is_tried_again_may_be(desk: Desk) -> None:
    held = [desk.reserve() for _ in range(3)]
    assert not desk.backlog.can_take(100, "plates")
    desk.put("d", bytes(100), priority=9)
    assert desk.answers[-1].reason is RejectReason.BACKLOG_FULL
    desk.backlog.settle([held[0]], Outcome(OutcomeKind.FAILED, failure=ERROR))
    desk.put("d", bytes(100), priority=9)
    assert (desk.answers[-1], states(desk, "abcd")) == (STORED, ["shed", "reserved", "reserved", "waiting"])
    desk.clock.advance(60.0)
    desk.backlog.tick()
    assert desk.reserve().entry.message_id == "d"


def test_as_many_go_as_a_large_newcomer_needs_or_none(desk: Desk) -> None:
    desk.put("d", bytes(100 + COST_BYTES), priority=1)
    assert (desk.answers[-1], states(desk, "abcd")) == (STORED, ["waiting", "shed", "shed", "waiting"])
    desk.put("e", bytes(3 * 100 + 2 * COST_BYTES), priority=1)
    assert desk.answers[-1].reason is RejectReason.BACKLOG_FULL
    assert (states(desk, "abcd"), desk.backlog.figures("plates").shed_total) == (
        ["waiting", "shed", "shed", "waiting"],
        2,
    )
    desk.put("f", bytes(3 * 100 + 2 * COST_BYTES), priority=2)
    assert (desk.answers[-1], states(desk, "adf")) == (STORED, ["shed", "shed", "waiting"])


def test_sources_of_such_a_stream_get_credit_although_the_backlog_is_full(desk: Desk) -> None:
    assert desk.backlog.can_take(100, "plates")
    assert not desk.backlog.can_take(100)


def test_dead_letters_are_not_shed_and_while_they_fill_their_share_nothing_is() -> None:
    desk = Desk(MemoryStore(), LedgerLimits(max_bytes=10_000, dead_letter_bytes=ENTRY_OVERHEAD_BYTES))
    desk.backlog.declare(SHEDDING)
    desk.put("a", bytes(100))
    desk.put("dead", bytes(100), flags=Flag.DEAD, failure=FATAL)
    desk.put("b", bytes(100), priority=9)
    assert desk.answers[-1].reason is RejectReason.BACKLOG_FULL and "Dead letters fill" in desk.answers[-1].text
    assert states(desk, "a") == ["waiting"] and not desk.backlog.can_take(1, "plates")
    desk.backlog.close()


@pytest.mark.parametrize("payload", [bytes(100), b"other bytes"])
def test_a_shed_message_that_is_sent_again_is_a_new_one(desk: Desk, payload: bytes) -> None:
    desk.put("d", bytes(100), priority=1)
    desk.backlog.settle([desk.reserve()], DONE)
    desk.put("b", payload, priority=9)
    assert (desk.answers[-1], desk.state("b"), desk.backlog.figures("plates").ready) == (STORED, "waiting", 3)
    reservation = desk.reserve()
    assert reservation.entry.message_id == "b"
    desk.backlog.settle([reservation], DONE)
    assert desk.state("b") == "done"
    desk.subscribe("b")
    assert desk.finals == [("b", DONE)]
    desk.put("b", payload)
    assert (desk.answers[-1], desk.state("b")) == (STORED, "done"), "it is known now like any other"


def test_a_shed_message_that_is_sent_again_dies_and_is_purged_is_not_called_shed_any_more(desk: Desk) -> None:
    desk.put("d", bytes(100), priority=1)
    desk.backlog.settle([desk.reserve()], DONE)
    desk.put("b", bytes(100), priority=9)
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.FAILED, failure=FATAL))
    assert desk.state("b") == "dead"
    desk.backlog.upkeep.purge("plates", DeadChoice(("b",)))
    desk.subscribe("b")
    assert (desk.state("b"), desk.finals) == (None, [("b", None)])


def test_a_shed_message_that_is_sent_again_makes_room_for_itself_also_after_a_restart(tmp_path: Path) -> None:
    desk = full_desk(SqliteStore(tmp_path / "backlog"))
    desk.put("d", bytes(100), priority=1)
    wait_until(lambda: len(desk.answers) == 4)
    desk.backlog.close()
    desk = Desk(SqliteStore(tmp_path / "backlog"), ROOM_FOR_THREE)
    desk.backlog.declare(SHEDDING)
    assert states(desk, "abcd") == ["waiting", "shed", "waiting", "waiting"]
    desk.put("b", bytes(100), priority=1)
    wait_until(lambda: desk.answers == [STORED])
    wait_until(lambda: states(desk, "abcd") == ["waiting", "waiting", "shed", "waiting"])
    desk.backlog.close()


def test_a_copy_of_what_is_just_being_shed_is_not_called_stored() -> None:
    store = HeldStore()
    store.is_holding = False
    desk = full_desk(store)
    store.is_holding = True
    desk.put("d", bytes(100), priority=1)
    assert desk.state("b") == "shed"
    store.is_holding = False
    desk.backlog.settle([desk.reserve()], DONE)
    for payload in (bytes(100), b"other bytes"):
        desk.put("b", payload, priority=1)
        assert desk.answers[-1].reason is RejectReason.BACKLOG_FULL
    store.release()
    desk.put("b", bytes(100), priority=1)
    assert (desk.answers[-1], desk.state("b")) == (STORED, "waiting")
    desk.backlog.close()


def test_what_became_of_a_shed_message_is_known_for_a_day(desk: Desk) -> None:
    desk.put("d", bytes(100), priority=1)
    desk.store.prune(time.time() + OUTCOMES_KEPT_S + 1)
    found = desk.backlog.upkeep.outcome("plates", "b")
    assert found is not None and (found.state, found.failure) == ("shed", None)


def test_nothing_is_shed_for_a_second_copy(desk: Desk) -> None:
    desk.put("a", bytes(100), priority=9)
    assert desk.answers[-1].reason is RejectReason.BACKLOG_FULL
    with pytest.raises(BacklogFull):
        desk.backlog.new_payload("plates", 100, "b", 9)
    assert (states(desk, "abc"), desk.backlog.figures("plates").shed_total) == (["waiting"] * 3, 0)


def test_it_is_said_when_the_record_is_written_and_not_before() -> None:
    store = HeldStore()
    store.is_holding = False
    desk = full_desk(store)
    desk.subscribe("b")
    store.is_holding = True
    desk.put("d", bytes(100), priority=1)
    assert (desk.state("b"), desk.finals, desk.backlog.figures("plates").shed_total) == ("shed", [], 0)
    store.release(StorageError("The disk is full."))
    assert (desk.answers[-1].reason, desk.finals) == (RejectReason.STORAGE, [])
    store.is_holding = False
    desk.clock.advance(REPEAT_INTERVAL_S + 1)
    desk.backlog.tick()
    assert [message_id for message_id, _ in desk.finals] == ["b"]
    assert (desk.state("b"), desk.backlog.figures("plates").shed_total) == ("shed", 1)
    budget = desk.backlog.upkeep._books.budget
    assert (budget.messages, budget.used_bytes) == (2, 2 * (COST_BYTES + 100))
    desk.backlog.close()


def test_records_and_outcomes_outlive_the_master(tmp_path: Path) -> None:
    desk = full_desk(SqliteStore(tmp_path / "backlog"))
    told = threading.Event()
    desk.backlog.subscribe("plates", "b", lambda *_: told.set())
    desk.put("d", bytes(100), priority=1)
    assert told.wait(10)
    desk.backlog.close()
    desk = Desk(SqliteStore(tmp_path / "backlog"), ROOM_FOR_THREE)
    assert [record.message for record in desk.backlog.upkeep.backlog("plates", 10).shed] == ["b"]
    assert states(desk, "abcd") == ["waiting", "shed", "waiting", "waiting"]
    desk.subscribe("b")
    ((_, outcome),) = desk.finals
    assert outcome is not None and outcome.failure is not None and outcome.failure.error_type == "Shed"
    desk.backlog.close()


def test_another_word_for_what_a_full_backlog_does_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'refuse' or 'shed'"):
        replace(PLATES, when_full="drop").checked()
    assert SHEDDING.checked() is SHEDDING


def test_whatever_waits_no_more_is_shed_than_needed_and_the_budget_agrees() -> None:
    """Beside a model that sorts everything whenever it is asked."""
    chance = random.Random(11)
    ledger = Ledger(LedgerLimits(max_bytes=40 * ENTRY_OVERHEAD_BYTES))
    ledger.set_policy("plates", RetryPolicy(sheds=True))
    shedding = Shedding(ledger.books)
    waiting: list[Entry] = []
    held: list[Entry] = []
    for number in range(2_000):
        size_bytes, priority = chance.choice([0, 10, 500, 5_000]), chance.randrange(-3, 4)
        if ledger.admit(size_bytes) is not None:
            model = sorted(waiting, key=lambda entry: (entry.priority, entry.sequence))
            free = ledger.books.budget.limits.max_bytes - ledger.books.budget.used_bytes
            expected: list[Entry] = []
            for entry in model:
                if free >= size_bytes + ENTRY_OVERHEAD_BYTES or entry.priority > priority:
                    break
                expected.append(entry)
                free += entry.cost_bytes
            if free < size_bytes + ENTRY_OVERHEAD_BYTES:
                expected = []
            assert shedding.make_room("plates", size_bytes, priority) == expected
            for entry in expected:
                waiting.remove(entry)
                ledger.shed(entry, float(number))
                assert entry.state is State.GONE
            if not expected:
                continue
            assert ledger.admit(size_bytes) is None
        entry = Entry("plates", f"m{number}", ledger.draw_sequence(), size_bytes, priority=priority, section=b"s")
        ledger.put(entry, 0.0)
        ledger.stored(entry)
        waiting.append(entry)
        if chance.random() < 0.2 and (reservation := ledger.reserve("plates", "e1", 0.0)) is not None:
            waiting.remove(reservation.entry)
            held.append(reservation.entry)
            if len(held) > 5:
                gone = held.pop(0)
                ledger.release_all("e1")
                waiting += [*held, gone]
                held.clear()
        assert ledger.books.budget.used_bytes == sum(each.cost_bytes for each in (*waiting, *held))


def test_whoever_found_no_room_is_told_of_what_was_shed() -> None:
    desk = Desk(MemoryStore(), LedgerLimits(max_bytes=100_000))
    desk.backlog.declare(SHEDDING)
    has_room = threading.Event()
    desk.backlog.set_listeners(on_room=has_room.set)
    desk.put("large", bytes(90_000))
    assert not desk.backlog.can_take(20_000, "frames")
    desk.put("small", bytes(9_000))
    assert desk.state("large") == "shed"
    assert has_room.wait(20.0) and desk.backlog.can_take(20_000, "frames")
    desk.backlog.close()
