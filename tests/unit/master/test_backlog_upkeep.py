"""What waits, as people look at it and put it in another order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benches.backlog import ERROR, FATAL, PLATES, Desk, HeldStore
from harmonicio.control.backlog_messages import PriorityChange
from harmonicio.core.errors import InvalidInput, StorageError
from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.master.backlog.base import StoreLimits
from harmonicio.master.backlog.budget import LedgerLimits
from harmonicio.master.backlog.entry import Entry, RetryPolicy, State
from harmonicio.master.backlog.entry_heap import EntryHeap
from harmonicio.master.backlog.ledger import Ledger
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.frames import Flag


def test_what_waits_is_shown_with_its_state_and_who_has_it(desk: Desk) -> None:
    for message_id in "abc":
        desk.put(message_id)
    desk.clock.advance(5.0)
    desk.reserve("cells-1#4")
    desk.backlog.settle([desk.reserve("cells-2#1")], Outcome(OutcomeKind.FAILED, failure=ERROR))
    view = desk.backlog.upkeep.backlog("plates", 10)
    assert [each.message for each in view.next] == ["c"]
    assert [(each.message, each.state, each.engine) for each in view.oldest] == [
        ("a", "reserved", "cells-1"),
        ("b", "delayed", "cells-2"),
        ("c", "ready", ""),
    ]
    assert 0.0 < view.oldest[1].ready_in_s <= 0.2
    assert (view.oldest[1].attempts, view.oldest[0].age_s, view.figures.ready) == (1, 5.0, 2)
    assert len(desk.backlog.upkeep.backlog("plates", 1).oldest) == 1
    for limit in (0, 501):
        with pytest.raises(InvalidInput):
            desk.backlog.upkeep.backlog("plates", limit)


def test_it_is_shown_how_full_the_backlog_of_all_streams_is(tmp_path: Path) -> None:
    limits = LedgerLimits(max_bytes=1_000_000, max_messages=100, dead_letter_bytes=500_000)
    desk = Desk(SqliteStore(tmp_path / "backlog", StoreLimits(hot_cache_bytes=250_000)), limits)
    desk.put("a", bytes(100_000))
    desk.put("b", bytes(100_000), flags=Flag.DEAD, failure=FATAL)
    wait_until(lambda: len(desk.answers) == 2, what="the messages to be stored")
    desk.backlog.declare(replace(PLATES, name="wells"))
    for stream in ("plates", "wells"):
        fill = desk.backlog.upkeep.backlog(stream, 10).fill
        assert (fill.messages, fill.max_messages, fill.max_bytes, fill.dead_max_bytes) == (2, 100, 1_000_000, 500_000)
        assert 200_000 < fill.used_bytes < 203_000 and 100_000 < fill.dead_bytes < 102_000
        assert (fill.memory_bytes, fill.memory_max_bytes) == (100_000, 250_000)
    desk.backlog.close()


def test_a_priority_that_could_not_be_written_is_not_said_to_be_changed() -> None:
    store = HeldStore()
    desk = Desk(store)
    store.is_holding = False
    desk.put("a")
    store.revise = lambda entries, on_done: on_done(StorageError("The disk is full."))  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="full"):
        desk.backlog.upkeep.prioritise("plates", ["a"], 5)
    desk.backlog.close()


def test_nothing_is_written_where_nothing_changes(desk: Desk) -> None:
    change = desk.backlog.upkeep.prioritise("plates", ["nobody"], 5)
    assert (change.changed, [each.message for each in change.refused]) == (0, ["nobody"])
    assert desk.backlog.upkeep.prioritise("plates", [], 5) == PriorityChange(0)


@pytest.mark.parametrize("is_ordered", [False, True])
def test_messages_go_by_the_priority_that_they_have_now(is_ordered: bool) -> None:
    ledger = Ledger()
    ledger.set_policy("plates", RetryPolicy(is_ordered=is_ordered))
    for number in range(6):
        entry = Entry("plates", f"m{number}", ledger.draw_sequence(), 1)
        ledger.admit(1)
        ledger.put(entry, 0.0)
        ledger.stored(entry)
    for message_id, priority in (("m4", 9), ("m0", -1), ("m4", 1), ("m2", 9), ("m2", 0)):
        assert isinstance(ledger.books.prioritise("plates", message_id, priority), Entry)
    order = ["m4", "m1", "m2", "m3", "m5", "m0"]
    assert [each.message_id for each in ledger.books.open("plates").next_in_order(10)] == order
    taken = []
    while (reservation := ledger.reserve("plates", "e1", 0.0)) is not None:
        taken.append(reservation.entry.message_id)
        ledger.finish(reservation)
    assert taken == order


def test_a_heap_whose_entries_change_their_rank_again_and_again_stays_small_and_right() -> None:
    entries = {number: Entry("plates", f"m{number}", number, 1, priority=number % 7) for number in range(1, 51)}
    for entry in entries.values():
        entry.state = State.READY
    heap = EntryHeap(lambda entry: entry.priority, lambda entry: entry.state is State.READY, entries.get)
    for turn in range(20_000):
        entry = entries[turn % 50 + 1]
        entry.priority = (turn * 31) % 97
        entry.state = State.READY if turn % 3 else State.RESERVED
        heap.push(entry)
        assert len(heap) <= 2 * 50 + 1_025
    expected = sorted(
        (entry for entry in entries.values() if entry.state is State.READY),
        key=lambda entry: (entry.priority, entry.sequence),
    )
    assert list(heap.in_order()) == expected
    assert heap.first() is expected[0]
