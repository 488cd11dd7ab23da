"""The backlog as the data port and the routes use it: how messages come in and go out."""

from __future__ import annotations

import threading

import pytest

from benches.backlog import DONE, ERROR, FATAL, PLATES, STORED, Desk, HeldStore, message
from harmonicio.control.messages import EngineExit, FailureView
from harmonicio.core.engine import ExitReason
from harmonicio.core.errors import (
    BacklogFull,
    ConfigurationError,
    InvalidInput,
    LocalProtocolError,
    RemoteProtocolError,
    StorageError,
)
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.master.backlog.base import MemoryPayload, PayloadLease, damaged
from harmonicio.master.backlog.budget import LedgerLimits
from harmonicio.master.backlog.clerk import REPEAT_INTERVAL_S
from harmonicio.master.backlog.entry import ENTRY_OVERHEAD_BYTES, Entry
from harmonicio.master.backlog.ledger import BACK_OFF_MAX_S
from harmonicio.master.backlog.memory import MemoryStore
from harmonicio.master.backlog.notifier import Notifier
from harmonicio.master.service import BacklogOptions
from harmonicio.wire.frames import Flag

# ── coming in ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_stored_is_answered_only_when_the_store_has_said_so(held: tuple[Desk, HeldStore]) -> None:
    desk, store = held
    desk.put("a")
    assert (desk.answers, desk.backlog.depth("plates"), desk.state("a")) == ([], 0, "waiting")
    store.release()
    assert (desk.answers, desk.backlog.depth("plates")) == ([STORED], 1)


def test_a_second_copy_that_arrives_while_the_first_is_stored_gets_the_same_answer(
    held: tuple[Desk, HeldStore],
) -> None:
    desk, store = held
    desk.put("a")
    desk.put("a")
    assert desk.answers == []
    store.release()
    assert (desk.answers, desk.backlog.depth("plates")) == ([STORED, STORED], 1)


def test_a_message_that_could_not_be_stored_is_rejected_to_all_who_sent_it(held: tuple[Desk, HeldStore]) -> None:
    desk, store = held
    desk.put("a")
    desk.put("a")
    store.release(StorageError("The disk is full."))
    assert [(answer.kind, answer.reason) for answer in desk.answers] == [
        (OutcomeKind.REJECTED, RejectReason.STORAGE)
    ] * 2
    assert desk.state("a") is None
    desk.put("a", b"other bytes")
    store.release()
    assert desk.answers[2:] == [STORED]


def test_a_known_message_is_stored_once_and_answered_each_time(desk: Desk) -> None:
    for _ in range(3):
        desk.put("a")
    assert (desk.answers, desk.backlog.depth("plates")) == ([STORED] * 3, 1)
    desk.backlog.settle([desk.reserve()], DONE)
    desk.put("a")
    assert (desk.answers[-1], desk.backlog.depth("plates")) == (STORED, 0)


def test_other_bytes_under_a_known_id_are_rejected(desk: Desk) -> None:
    desk.put("a")
    desk.put("a", b"others")
    assert desk.answers[1].reason is RejectReason.ID_CONFLICT


def test_a_payload_can_arrive_into_room_that_was_asked_for(desk: Desk) -> None:
    pending = desk.backlog.new_payload("plates", 5)
    pending.buffer[:] = b"cells"
    desk.backlog.put("plates", message("a", b"cells"), pending, desk.answers.append)
    with desk.backlog.open_payload(desk.reserve()) as payload:
        assert (desk.answers, bytes(payload.view)) == ([STORED], b"cells")


def test_only_room_of_the_backlog_can_be_put(desk: Desk) -> None:
    with pytest.raises(LocalProtocolError):
        desk.backlog.put("plates", message("a", b""), MemoryPayload(0), desk.answers.append)


def test_a_full_backlog_refuses_and_tells_when_there_is_room_again() -> None:
    desk = Desk(MemoryStore(), LedgerLimits(max_bytes=2 * (ENTRY_OVERHEAD_BYTES + 10)))
    room = threading.Event()
    desk.backlog.set_listeners(on_room=room.set)
    desk.put("a")
    discarded = desk.backlog.new_payload("plates", 5)
    desk.put("b")
    assert desk.answers[1].reason is RejectReason.BACKLOG_FULL
    with pytest.raises(BacklogFull) as caught:
        desk.backlog.new_payload("plates", 5)
    assert caught.value.retry_after_s == 1.0
    assert not desk.backlog.can_take(5)
    assert not room.is_set()
    discarded.discard()
    assert room.wait(5.0) and desk.backlog.can_take(5)
    room.clear()
    desk.put("c")
    assert not desk.backlog.can_take()
    desk.backlog.settle([desk.reserve()], DONE)
    assert room.wait(5.0)
    desk.backlog.close()


def test_a_message_larger_than_the_whole_backlog_is_refused_for_good_and_nobody_waits_for_room_for_it() -> None:
    desk = Desk(MemoryStore(), LedgerLimits(max_bytes=ENTRY_OVERHEAD_BYTES + 10))
    room = threading.Event()
    desk.backlog.set_listeners(on_room=room.set)
    with pytest.raises(InvalidInput, match="larger than the whole backlog"):
        desk.backlog.new_payload("plates", 11)
    desk.put("a", bytes(11))
    (answer,) = desk.answers
    assert answer.reason is RejectReason.TOO_LARGE and "larger than the whole backlog" in answer.text
    assert desk.backlog.can_take(10)
    desk.backlog.close()


def test_a_backlog_that_could_give_nobody_credit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="too small"):
        BacklogOptions(max_disk_bytes=1024**2)


def test_a_message_that_its_source_gave_up_is_a_dead_letter(desk: Desk) -> None:
    desk.put("a", flags=int(Flag.DEAD), failure=FATAL)
    assert (desk.answers, desk.backlog.depth("plates")) == ([STORED], 0)
    found = desk.backlog.upkeep.outcome("plates", "a")
    assert found is not None and found.state == "dead"
    assert found.failure == FailureView("ValueError", "not an image", "Traceback …", False)


# ── going out ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_final_outcome_is_told_once_and_only_when_it_is_on_stable_storage(held: tuple[Desk, HeldStore]) -> None:
    desk, store = held
    desk.put("a")
    store.release()
    desk.subscribe("a")
    outcome = Outcome(OutcomeKind.DONE, result=[1, 2])
    desk.backlog.settle([desk.reserve()], outcome)
    assert (desk.finals, desk.state("a")) == ([], "reserved")
    store.release()
    assert (desk.finals, desk.state("a")) == ([("a", outcome)], "done")
    assert desk.backlog.figures("plates").done_total == 1


def test_a_failed_message_gets_another_attempt_and_then_is_a_dead_letter(desk: Desk) -> None:
    desk.put("a")
    desk.subscribe("a")
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.FAILED, failure=ERROR))
    assert (desk.backlog.depth("plates"), desk.state("a"), desk.finals) == (0, "waiting", [])
    desk.clock.advance(1.0)
    desk.backlog.tick()
    assert desk.backlog.depth("plates") == 1
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.FAILED, failure=ERROR))
    assert desk.state("a") == "dead"
    assert desk.finals == [("a", Outcome(OutcomeKind.FAILED, failure=ERROR))]
    assert desk.backlog.figures("plates").dead == 1


def test_a_message_that_an_engine_can_never_take_is_a_dead_letter(desk: Desk) -> None:
    desk.put("a")
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.REJECTED, reason=RejectReason.TOO_LARGE, text="7 GB"))
    found = desk.backlog.upkeep.outcome("plates", "a")
    assert found is not None and found.failure is not None
    assert found.failure.text == "too_large: 7 GB"


def test_a_message_that_an_engine_cannot_take_now_is_offered_again_a_moment_later(desk: Desk) -> None:
    desk.put("a")
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.REJECTED, reason=RejectReason.DRAINING))
    assert desk.backlog.depth("plates") == 0
    desk.clock.advance(0.2)
    desk.backlog.tick()
    assert desk.reserve("e2").entry.attempts == 0


def test_a_suspect_that_no_engine_has_taken_is_offered_again_after_pauses_that_grow(desk: Desk) -> None:
    """Each try costs its transfer, and keeps the slots of an engine from work for a moment."""
    desk.put("a", flags=int(Flag.SUSPECT))
    tries = 0
    for _ in range(1000):
        assert desk.backlog.put_off_size("plates") is None, "no engine may have it before"
        if desk.backlog.depth("plates"):
            desk.backlog.settle([desk.reserve()], Outcome.rejected(RejectReason.NO_CREDIT, "It was not alone in time."))
            tries += 1
        desk.clock.advance(0.1)
        desk.backlog.tick()
    assert 8 <= tries <= 15


def test_a_message_that_was_not_kept_waits_for_its_pause_whoever_may_have_room(desk: Desk) -> None:
    desk.put("a")
    for reason, recalled in ((RejectReason.STORAGE, 5), (RejectReason.NOT_KEPT, None)):
        desk.backlog.settle([desk.reserve()], Outcome.rejected(reason, "Not now."))
        assert (desk.backlog.depth("plates"), desk.backlog.put_off_size("plates")) == (0, recalled)
        desk.clock.advance(BACK_OFF_MAX_S)
        desk.backlog.tick()
    assert desk.reserve().entry.attempts == 0


@pytest.mark.parametrize("reason", [RejectReason.STORAGE, RejectReason.NOT_KEPT])
def test_a_message_that_no_host_has_room_for_stays_in_the_backlog_is_offered_less_often_and_somebody_hears(
    desk: Desk, caplog: pytest.LogCaptureFixture, reason: RejectReason
) -> None:
    desk.put("a")
    no_room = Outcome.rejected(reason, "No space left on the scratch volume.")
    offers, began = 0, desk.clock.monotonic()
    while (passed_s := desk.clock.monotonic() - began) < 300.0:
        if desk.backlog.depth("plates"):
            desk.backlog.settle([desk.reserve()], no_room)
            offers += 1
        desk.clock.advance(0.25)
        desk.backlog.tick()
    assert 10 < offers < 35 and desk.state("a") == "waiting"
    first, *later = [record.getMessage() for record in caplog.records if "could not keep" in record.getMessage()]
    assert "message 'a' of stream 'plates', 5 bytes, at e1: No space left on the scratch volume." in first
    assert 1 <= len(later) <= passed_s / 60
    desk.clock.advance(BACK_OFF_MAX_S)
    desk.backlog.tick()
    assert desk.reserve().attempt == 1


def test_a_refused_message_whose_attempts_are_used_up_is_not_said_to_stay_in_the_backlog(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.put("a")
    reservation = desk.reserve()
    for _ in range(PLATES.max_crashes):
        desk.backlog.engine_exited(EngineExit("e1", "plates", ExitReason.CRASHED, held=("a",)))
    desk.backlog.settle([reservation], Outcome.rejected(RejectReason.STORAGE, "No space left on the scratch volume."))
    assert desk.state("a") == "dead"
    assert "no room" not in caplog.text


def test_listeners_are_told_once_of_a_message_that_was_stored(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(Notifier, "changed", lambda _, stream: told.append(stream))
    desk.put("a")
    assert told == ["plates"]


def test_an_engine_does_not_say_stored(desk: Desk) -> None:
    desk.put("a")
    with pytest.raises(RemoteProtocolError):
        desk.backlog.settle([desk.reserve()], STORED)


def test_a_time_out_kill_counts_an_attempt(desk: Desk) -> None:
    desk.put("a")
    desk.subscribe("a")
    for _ in range(2):
        desk.reserve("e1")
        desk.backlog.engine_gone("e1")
        desk.backlog.engine_exited(EngineExit("e1", "plates", ExitReason.TIMED_OUT, held=("a",)))
    assert desk.state("a") == "dead"
    (final,) = desk.finals
    assert final[1] is not None and final[1].failure is not None
    assert final[1].failure.error_type == "TimedOut"


def test_a_crash_counts_only_for_a_message_that_was_alone(desk: Desk) -> None:
    desk.put("a")
    desk.put("b")
    for reason, held in ((ExitReason.CRASHED, ("a", "b")), (ExitReason.ORDERED, ("a",))):
        desk.backlog.engine_exited(EngineExit("e1", "plates", reason, held=held))
    assert [desk.reserve().entry.crashes for _ in range(2)] == [0, 0]
    desk.backlog.engine_gone("e1")
    for _ in range(2):
        desk.backlog.engine_exited(EngineExit("e1", "plates", ExitReason.CRASHED, held=("a",)))
    assert (desk.state("a"), desk.state("b")) == ("dead", "waiting")


def test_crashes_that_are_reported_while_their_message_is_being_stored_make_a_dead_letter_that_stays_one(
    held: tuple[Desk, HeldStore],
) -> None:
    desk, store = held
    desk.put("a")
    desk.subscribe("a")
    for _ in range(2):
        desk.backlog.engine_exited(EngineExit("e1", "plates", ExitReason.CRASHED, held=("a",)))
    store.release()
    assert (desk.answers, desk.state("a"), desk.finals) == ([STORED], "dead", [])
    desk.backlog.tick()
    store.release()
    desk.subscribe("a")
    assert [final.failure.error_type for _, final in desk.finals if final and final.failure] == ["EngineCrashed"] * 2
    assert [entry.message_id for entry in store.recover().dead] == ["a"]


def test_a_damaged_payload_makes_a_dead_letter_and_the_others_are_served() -> None:
    class HoledStore(MemoryStore):
        def read(self, entry: Entry) -> PayloadLease:
            if entry.message_id == "a":
                raise damaged("The payload is gone.")
            if entry.message_id == "b":
                raise StorageError("Too many open files.")
            return super().read(entry)

    desk = Desk(HoledStore())
    for message_id in "abc":
        desk.put(message_id)
    for _ in range(2):
        with pytest.raises(StorageError):
            desk.backlog.open_payload(desk.reserve())
    with desk.backlog.open_payload(desk.reserve()) as payload:
        assert bytes(payload.view) == b"cells"
    assert [desk.state(message_id) for message_id in "abc"] == ["dead", "waiting", "reserved"]
    desk.clock.advance(1.1)
    desk.backlog.tick()
    assert desk.reserve().entry.message_id == "b"
    desk.backlog.close()


def test_what_could_not_be_written_is_tried_again_and_not_forgotten(held: tuple[Desk, HeldStore]) -> None:
    desk, store = held
    for message_id in "ab":
        desk.put(message_id)
    store.release()
    for message_id in "ab":
        desk.subscribe(message_id)
    desk.backlog.settle([desk.reserve()], DONE)
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.FAILED, failure=FATAL))
    store.release(StorageError("The disk is full."))
    assert (desk.finals, desk.state("a"), desk.state("b")) == ([], "reserved", "dead")
    desk.backlog.tick()
    store.release(StorageError("The disk is still full."))
    store.is_holding = False
    desk.backlog.tick()
    assert desk.finals == []
    desk.clock.advance(REPEAT_INTERVAL_S)
    desk.backlog.tick()
    assert [message_id for message_id, _ in desk.finals] == ["a", "b"]
    assert (desk.state("a"), desk.backlog.figures("plates").reserved) == ("done", 0)


@pytest.mark.parametrize("ends", ["done", "dead"])
def test_what_could_not_be_written_of_a_deleted_stream_says_nothing_of_the_next_stream_of_its_name(
    held: tuple[Desk, HeldStore], ends: str
) -> None:
    desk, store = held
    desk.put("a")
    store.release()
    outcome = DONE if ends == "done" else Outcome(OutcomeKind.FAILED, failure=FATAL)
    desk.backlog.settle([desk.reserve()], outcome)
    store.release(StorageError("The disk is full."))
    store.is_holding = False
    desk.backlog.drop_stream("plates", is_forced=True)
    desk.backlog.declare(PLATES)
    desk.put("a")
    desk.subscribe("a")
    desk.clock.advance(REPEAT_INTERVAL_S)
    desk.backlog.tick()
    assert (desk.state("a"), desk.finals) == ("waiting", [])
    assert desk.store.outcome("plates", "a") is None
    desk.backlog.settle([desk.reserve()], DONE)
    assert desk.finals == [("a", DONE)]
