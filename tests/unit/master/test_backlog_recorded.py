"""A message whose engines died is not dead if the last one has done its work: the record of that is looked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benches.backlog import DONE, FATAL, PLATES, STORED, Desk, HeldStore
from harmonicio.control.messages import EngineExit
from harmonicio.core.engine import ExitReason
from harmonicio.core.errors import Conflict, StorageError
from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.engine.outputs import failure_of
from harmonicio.master.backlog.base import PayloadLease, damaged
from harmonicio.master.backlog.clerk import REPEAT_INTERVAL_S
from harmonicio.master.backlog.entry import Entry
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.waiting import wait_until

RECORDED = Outcome(OutcomeKind.DONE, {"tier": "A"})


class Records:
    """What was recorded; counts the questions."""

    def __init__(self, outcome: Outcome | None = RECORDED) -> None:
        self.outcome = outcome
        self.error: Exception | None = None
        self.asked: list[tuple[str, str, int]] = []

    def find(self, stream: str, message_id: str, size_bytes: int) -> Outcome | None:
        self.asked.append((stream, message_id, size_bytes))
        if self.error is not None:
            raise self.error
        return self.outcome


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def desk(tmp_path: Path, records: Records) -> Iterator[Desk]:
    desk = Desk(SqliteStore(tmp_path))
    desk.backlog.set_outcome_finder(records.find)
    yield desk
    desk.backlog.close()


def put(desk: Desk, message_id: str = "a", **more: object) -> None:
    before = len(desk.answers)
    desk.put(message_id, **more)
    wait_until(lambda: len(desk.answers) > before)


def crash_twice(desk: Desk) -> None:
    for engine in ("e1", "e2"):
        wait_until(lambda: desk.backlog.depth("plates"))
        desk.reserve(f"{engine}#1")
        desk.backlog.engine_gone(f"{engine}#1")
        desk.backlog.engine_exited(EngineExit(engine, "plates", ExitReason.CRASHED, "It ended by signal 9.", ("a",)))


def put_used_up(desk: Desk, *message_ids: str) -> None:
    """Put messages whose crashes are used up, so that all are given up, or found to be done, by the next tick."""
    for message_id in message_ids:
        for _ in range(PLATES.max_crashes):
            desk.backlog.engine_exited(EngineExit("e1", "plates", ExitReason.CRASHED, held=(message_id,)))
        put(desk, message_id)
        desk.subscribe(message_id)


def test_a_message_that_its_last_engine_has_processed_is_done(desk: Desk, records: Records, tmp_path: Path) -> None:
    put(desk)
    desk.subscribe("a")
    crash_twice(desk)
    wait_until(lambda: desk.finals)
    assert (desk.state("a"), desk.finals) == ("done", [("a", RECORDED)])
    assert records.asked == [("plates", "a", 5)]
    figures = desk.backlog.figures("plates")
    assert (figures.dead, figures.ready, figures.reserved, figures.waiting_bytes) == (0, 0, 0, 0)
    desk.backlog.close()
    again = Desk(SqliteStore(tmp_path))
    assert again.state("a") == "done"
    again.backlog.close()


def test_one_of_which_there_is_no_record_is_dead(desk: Desk, records: Records) -> None:
    records.outcome = None
    put(desk)
    crash_twice(desk)
    assert desk.state("a") == "dead"


def test_one_that_an_engine_refuses_after_another_has_processed_it_is_done(desk: Desk, records: Records) -> None:
    put(desk)
    desk.reserve("e1#1")
    desk.backlog.engine_gone("e1#1")
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.FAILED, failure=FATAL))
    wait_until(lambda: desk.state("a") == "done")
    assert records.asked == [("plates", "a", 5)]


def test_one_that_an_engine_refuses_and_none_has_processed_is_dead(desk: Desk, records: Records) -> None:
    records.outcome = None
    put(desk)
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.FAILED, failure=FATAL))
    assert desk.state("a") == "dead"


@pytest.mark.row("S27")
def test_one_whose_record_is_of_other_bytes_is_dead(desk: Desk, records: Records) -> None:
    put(desk)
    desk.subscribe("a")
    failure = failure_of(Conflict("Message 'a' of stream 'plates' is known with other bytes.")).failure
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.FAILED, failure=failure))
    assert desk.state("a") == "dead"
    assert records.asked == []


@pytest.mark.parametrize("error", [StorageError("The disk is away."), ValueError("Expecting value: line 1")])
def test_while_records_cannot_be_read_nothing_is_said_and_they_are_asked_again(
    desk: Desk, records: Records, error: Exception
) -> None:
    records.error = error
    put(desk)
    desk.subscribe("a")
    crash_twice(desk)
    desk.clock.advance(REPEAT_INTERVAL_S)
    desk.backlog.tick()
    assert (len(records.asked), desk.finals) == (2, [])
    records.error = None
    desk.clock.advance(REPEAT_INTERVAL_S)
    desk.backlog.tick()
    wait_until(lambda: desk.finals)
    assert desk.finals == [("a", RECORDED)]


def test_one_whose_record_cannot_be_read_keeps_no_other_from_being_written(desk: Desk, records: Records) -> None:
    def find(stream: str, message_id: str, size_bytes: int) -> Outcome | None:
        if message_id == "a":
            raise KeyError("features")
        return None

    put_used_up(desk, "a", "b", "c")
    desk.backlog.set_outcome_finder(find)
    desk.backlog.tick()
    wait_until(lambda: len(desk.finals) == 2)
    assert (desk.state("a"), [message_id for message_id, _ in desk.finals]) == ("dead", ["b", "c"])
    desk.backlog.set_outcome_finder(lambda *_: None)
    desk.clock.advance(REPEAT_INTERVAL_S)
    desk.backlog.tick()
    wait_until(lambda: len(desk.finals) == 3)
    assert not desk.backlog.has_unwritten


def test_a_write_that_raises_is_tried_again_and_keeps_no_other_waiting(
    desk: Desk, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(entry: Entry, *arguments: object) -> None:
        if entry.message_id == "a":
            raise MemoryError
        bury(entry, *arguments)

    bury = desk.store.bury
    put_used_up(desk, "a", "b")
    records.outcome = None
    with monkeypatch.context() as patched:
        patched.setattr(desk.store, "bury", fail)
        for _ in range(2):
            desk.clock.advance(REPEAT_INTERVAL_S)
            desk.backlog.tick()
        wait_until(lambda: desk.finals)
    assert [message_id for message_id, _ in desk.finals] == ["b"]
    desk.clock.advance(REPEAT_INTERVAL_S)
    desk.backlog.tick()
    wait_until(lambda: len(desk.finals) == 2)
    assert not desk.backlog.has_unwritten


def test_one_that_its_source_sends_again_when_its_crashes_are_used_up_is_done_too(desk: Desk) -> None:
    for engine in ("e1", "e2"):
        desk.backlog.engine_exited(EngineExit(engine, "plates", ExitReason.CRASHED, "It ended by signal 9.", ("a",)))
    put(desk)

    def is_done() -> bool:
        desk.backlog.tick()
        return desk.state("a") == "done"

    wait_until(is_done)
    assert desk.backlog.figures("plates").dead == 0


def test_one_whose_payload_is_damaged_is_done_if_that_was_recorded_before(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(entry: Entry) -> PayloadLease:
        raise damaged("It is not what was stored.")

    put(desk)
    monkeypatch.setattr(desk.store, "read", fail)
    with pytest.raises(StorageError):
        desk.backlog.open_payload(desk.reserve())
    wait_until(lambda: desk.state("a") == "done")


def test_the_thread_that_writes_the_backlog_does_not_wait_for_the_feature_database() -> None:
    store = HeldStore()
    desk = Desk(store)
    sought: list[str] = []

    def find(stream: str, message_id: str, size_bytes: int) -> Outcome:
        sought.append(message_id)
        return DONE

    desk.backlog.set_outcome_finder(find)
    desk.put("a")
    for _ in range(PLATES.max_crashes):
        desk.backlog.engine_exited(EngineExit("e1", "plates", ExitReason.CRASHED, held=("a",)))
    store.is_holding = False
    store.release()  # As the store's own thread does it.
    assert (desk.answers, sought, desk.state("a")) == ([STORED], [], "dead")
    desk.backlog.tick()
    assert (sought, desk.state("a")) == (["a"], "done")
    desk.backlog.close()
