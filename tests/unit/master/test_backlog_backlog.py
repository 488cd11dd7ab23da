"""The backlog as the data port and the routes use it: ledger and store together."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harmonicio.control.messages import EngineExit, FailureView
from harmonicio.core.engine import ExitReason
from harmonicio.core.errors import (
    BacklogFull,
    ConfigurationError,
    Conflict,
    InvalidInput,
    LocalProtocolError,
    NotFound,
    RemoteProtocolError,
    StorageError,
)
from harmonicio.core.message import Failure, Outcome, OutcomeKind, RejectReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.backlog import LATE_LOG_INTERVAL_S, Backlog
from harmonicio.master.backlog.base import Callback, MemoryPayload, PayloadLease, PendingPayload, damaged
from harmonicio.master.backlog.budget import LedgerLimits
from harmonicio.master.backlog.clerk import REPEAT_INTERVAL_S
from harmonicio.master.backlog.entry import ENTRY_OVERHEAD_BYTES, Entry, Reservation
from harmonicio.master.backlog.ledger import BACK_OFF_MAX_S
from harmonicio.master.backlog.memory import MemoryStore
from harmonicio.master.backlog.notifier import Notifier
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.master.service import BacklogOptions
from harmonicio.testing.clock import ManualClock
from harmonicio.testing.waiting import wait_until
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
        self._held: list[Callable[[StorageError | None], None]] = []

    def release(self, error: StorageError | None = None) -> None:
        """Do what was asked so far, or fail at it."""
        held, self._held = self._held, []
        for each in held:
            each(error)

    def put(self, entry: Entry, payload: PendingPayload, on_stored: Callback, failure: Failure | None = None) -> None:
        self._hold(on_stored, lambda: super(HeldStore, self).put(entry, payload, on_stored, failure))

    def finish(self, entry: Entry, outcome: Outcome, on_done: Callback) -> None:
        self._hold(on_done, lambda: super(HeldStore, self).finish(entry, outcome, on_done))

    def bury(self, entry: Entry, failure: Failure, on_done: Callback) -> None:
        self._hold(on_done, lambda: super(HeldStore, self).bury(entry, failure, on_done))

    def _hold(self, callback: Callback, act: Callable[[], None]) -> None:
        if self.is_holding:
            self._held.append(lambda error: act() if error is None else callback(error))
        else:
            act()


class Desk:
    """A backlog with shortcuts for one stream."""

    def __init__(self, store: MemoryStore | SqliteStore, limits: LedgerLimits | None = None) -> None:
        self.clock = ManualClock()
        self.store = store
        self.backlog = Backlog(store, limits, clock=self.clock, randomness=random.Random(7))
        self.backlog.declare(PLATES)
        self.answers: list[Outcome] = []
        self.finals: list[tuple[str, Outcome | None]] = []

    def put(self, message_id: str, payload: bytes = b"cells", **more: object) -> None:
        self.backlog.put("plates", message(message_id, payload, **more), None, self.answers.append)

    def reserve(self, engine: str = "e1") -> Reservation:
        reservation = self.backlog.reserve("plates", engine, self.clock.monotonic())
        assert reservation is not None
        return reservation

    def subscribe(self, message_id: str) -> None:
        self.backlog.subscribe("plates", message_id, self.final)

    def final(self, message_id: str, outcome: Outcome | None) -> None:
        self.finals.append((message_id, outcome))

    def state(self, message_id: str) -> str | None:
        found = self.backlog.outcome("plates", message_id)
        return None if found is None else found.state


def message(
    message_id: str, payload: bytes, *, flags: int = 0, attempts: int = 0, failure: Failure | None = None
) -> IncomingMessage:
    arrived = IncomingMessage(0, message_id, flags, attempts, 0, 0, len(payload), b"\x80", {}, failure)
    arrived.payload = memoryview(payload)
    return arrived


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk(MemoryStore())
    yield desk
    desk.backlog.close()


@pytest.fixture
def held() -> Iterator[tuple[Desk, HeldStore]]:
    store = HeldStore()
    desk = Desk(store)
    yield desk, store
    desk.backlog.close()


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
    desk.backlog.settle(desk.reserve(), DONE)
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
    desk.backlog.settle(desk.reserve(), DONE)
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
    found = desk.backlog.outcome("plates", "a")
    assert found is not None and found.state == "dead"
    assert found.failure == FailureView("ValueError", "not an image", "Traceback …", False)


# ── going out ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_final_outcome_is_told_once_and_only_when_it_is_on_stable_storage(held: tuple[Desk, HeldStore]) -> None:
    desk, store = held
    desk.put("a")
    store.release()
    desk.subscribe("a")
    outcome = Outcome(OutcomeKind.DONE, result=[1, 2])
    desk.backlog.settle(desk.reserve(), outcome)
    assert (desk.finals, desk.state("a")) == ([], "reserved")
    store.release()
    assert (desk.finals, desk.state("a")) == ([("a", outcome)], "done")
    assert desk.backlog.figures("plates").done_total == 1


def test_a_failed_message_gets_another_attempt_and_then_is_a_dead_letter(desk: Desk) -> None:
    desk.put("a")
    desk.subscribe("a")
    desk.backlog.settle(desk.reserve(), Outcome(OutcomeKind.FAILED, failure=ERROR))
    assert (desk.backlog.depth("plates"), desk.state("a"), desk.finals) == (0, "waiting", [])
    desk.clock.advance(1.0)
    desk.backlog.tick()
    assert desk.backlog.depth("plates") == 1
    desk.backlog.settle(desk.reserve(), Outcome(OutcomeKind.FAILED, failure=ERROR))
    assert desk.state("a") == "dead"
    assert desk.finals == [("a", Outcome(OutcomeKind.FAILED, failure=ERROR))]
    assert desk.backlog.figures("plates").dead == 1


def test_a_message_that_an_engine_can_never_take_is_a_dead_letter(desk: Desk) -> None:
    desk.put("a")
    desk.backlog.settle(desk.reserve(), Outcome(OutcomeKind.REJECTED, reason=RejectReason.TOO_LARGE, text="7 GB"))
    found = desk.backlog.outcome("plates", "a")
    assert found is not None and found.failure is not None
    assert found.failure.text == "too_large: 7 GB"


def test_a_message_that_an_engine_cannot_take_now_is_offered_again_a_moment_later(desk: Desk) -> None:
    desk.put("a")
    desk.backlog.settle(desk.reserve(), Outcome(OutcomeKind.REJECTED, reason=RejectReason.DRAINING))
    assert desk.backlog.depth("plates") == 0
    desk.clock.advance(0.2)
    desk.backlog.tick()
    assert desk.reserve("e2").entry.attempts == 0


def test_a_message_that_no_host_has_room_for_stays_in_the_backlog_is_offered_less_often_and_somebody_hears(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.put("a")
    no_room = Outcome.rejected(RejectReason.STORAGE, "No space left on the scratch volume.")
    offers, began = 0, desk.clock.monotonic()
    while (passed_s := desk.clock.monotonic() - began) < 300.0:
        if desk.backlog.depth("plates"):
            desk.backlog.settle(desk.reserve(), no_room)
            offers += 1
        desk.clock.advance(0.25)
        desk.backlog.tick()
    assert 10 < offers < 35 and desk.state("a") == "waiting"
    first, *later = [record.getMessage() for record in caplog.records if "no room" in record.getMessage()]
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
    desk.backlog.settle(reservation, Outcome.rejected(RejectReason.STORAGE, "No space left on the scratch volume."))
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
        desk.backlog.settle(desk.reserve(), STORED)


def test_a_late_outcome_is_counted_logged_and_has_no_effect(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.put("a")
    late = desk.reserve("e1")
    desk.backlog.engine_gone("e1")
    current = desk.reserve("e2")
    for _ in range(5):
        desk.backlog.settle(late, DONE)
    assert (desk.state("a"), desk.backlog.figures("plates").late_total) == ("reserved", 5)
    (line,) = [record.getMessage() for record in caplog.records if "given up" in record.getMessage()]
    assert "`done` from e1 for message 'a' of stream 'plates'" in line
    desk.clock.advance(LATE_LOG_INTERVAL_S)
    desk.backlog.settle(late, DONE)
    assert "change nothing: 5;" in caplog.records[-1].getMessage()
    desk.backlog.settle(current, DONE)
    assert desk.state("a") == "done"


def test_a_reservation_expires_by_the_time_out_of_its_stream(desk: Desk) -> None:
    desk.put("a")
    desk.reserve()
    desk.clock.advance(89.0)
    desk.backlog.tick()
    assert desk.backlog.depth("plates") == 0
    desk.clock.advance(2.0)
    desk.backlog.tick()
    assert desk.backlog.depth("plates") == 1


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
    desk.backlog.settle(desk.reserve(), DONE)
    desk.backlog.settle(desk.reserve(), Outcome(OutcomeKind.FAILED, failure=FATAL))
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


# ── listeners and subscribers ────────────────────────────────────────────────────────────────────────────────────────


def test_listeners_hear_of_every_change_and_may_use_the_backlog(desk: Desk) -> None:
    seen: list[int] = []
    desk.backlog.set_listeners(on_change=lambda stream: seen.append(desk.backlog.depth(stream)))
    desk.put("a")
    wait_until(lambda: seen == [1], what="the listener to see the message")
    reservation = desk.reserve()
    wait_until(lambda: seen[-1] == 0, what="the listener to see the reservation")
    desk.backlog.settle(reservation, Outcome(OutcomeKind.FAILED, failure=ERROR))
    desk.clock.advance(1.0)
    desk.backlog.tick()
    wait_until(lambda: seen[-1] == 1, what="the listener to see the next attempt")
    desk.reserve("e1")
    desk.backlog.engine_gone("e1")
    wait_until(lambda: seen[-1] == 1, what="the listener to see what came back")


def test_a_listener_that_fails_is_called_again(desk: Desk) -> None:
    calls: list[str] = []

    def on_change(stream: str) -> None:
        calls.append(stream)
        raise ValueError("a bug")

    desk.backlog.set_listeners(on_change=on_change)
    for count, message_id in enumerate("ab", start=1):
        desk.put(message_id)
        wait_until(lambda count=count: len(calls) == count, what="the listener")


def test_who_subscribes_late_hears_at_once(desk: Desk) -> None:
    for message_id in "ab":
        desk.put(message_id)
    desk.backlog.settle(desk.reserve(), Outcome(OutcomeKind.DONE, result="3 cells"))
    desk.backlog.settle(desk.reserve(), Outcome(OutcomeKind.FAILED, failure=FATAL))
    for message_id in "abc":
        desk.subscribe(message_id)
    assert desk.finals == [
        ("a", Outcome(OutcomeKind.DONE, result="3 cells")),
        ("b", Outcome(OutcomeKind.FAILED, failure=FATAL)),
        ("c", None),
    ]


def test_who_unsubscribes_hears_nothing(desk: Desk) -> None:
    desk.put("a")
    desk.subscribe("a")
    desk.backlog.unsubscribe("plates", {"a", "b"}, desk.final)
    desk.backlog.settle(desk.reserve(), DONE)
    assert desk.finals == []


def test_an_outcome_is_known_for_an_hour_and_that_it_was_done_for_a_day(desk: Desk) -> None:
    desk.put("a")
    desk.backlog.settle(desk.reserve(), DONE)
    found = desk.backlog.outcome("plates", "a")
    assert found is not None and (found.state, found.attempts) == ("done", 1)
    desk.store.prune(time.time() + 3_700)
    found = desk.backlog.outcome("plates", "a")
    assert found is not None and (found.state, found.attempts) == ("done", 0)
    desk.subscribe("a")
    assert desk.finals == [("a", None)]
    assert desk.state("never seen") is None


# ── streams, restarts, many threads ──────────────────────────────────────────────────────────────────────────────────


def test_a_dropped_stream_is_gone_with_all_that_was_on_its_way(held: tuple[Desk, HeldStore]) -> None:
    desk, store = held
    desk.put("a")
    store.release()
    desk.subscribe("a")
    desk.put("storing")
    arriving = desk.backlog.new_payload("plates", 5)
    desk.backlog.drop_stream("plates", is_forced=True)
    assert desk.finals == [("a", None)]
    store.release()
    desk.backlog.put("plates", message("b", b"cells"), arriving, desk.answers.append)
    assert [answer.reason for answer in desk.answers[1:]] == [RejectReason.STORAGE] * 2
    assert [desk.state(message_id) for message_id in ("a", "storing", "b")] == [None] * 3
    desk.backlog.declare(PLATES)
    desk.put("a", b"anew")
    store.release()
    assert desk.answers[-1] == STORED
    desk.backlog.close()
    assert [entry.message_id for entry in store.recover().entries] == ["a"]


def test_a_stream_with_messages_or_dead_letters_is_dropped_by_force_only(held: tuple[Desk, HeldStore]) -> None:
    desk, store = held
    arriving = desk.backlog.new_payload("plates", 5)
    with pytest.raises(Conflict, match="wait in the backlog: 0; on their way into it: 1"):
        desk.backlog.drop_stream("plates")
    desk.backlog.put("plates", message("a", b"cells"), arriving, desk.answers.append)
    with pytest.raises(Conflict, match="wait in the backlog: 0; on their way into it: 1"):
        desk.backlog.drop_stream("plates")
    store.release()
    with pytest.raises(Conflict, match="wait in the backlog: 1; on their way into it: 0"):
        desk.backlog.drop_stream("plates")
    store.is_holding = False
    reservation = desk.reserve()
    with pytest.raises(Conflict):
        desk.backlog.drop_stream("plates")
    desk.backlog.settle(reservation, Outcome(OutcomeKind.FAILED, failure=FATAL))
    assert desk.state("a") == "dead"
    with pytest.raises(Conflict, match="dead letters: 1"):
        desk.backlog.drop_stream("plates")
    desk.backlog.drop_stream("plates", is_forced=True)
    assert desk.state("a") is None


def test_nothing_is_taken_for_a_stream_that_is_gone(desk: Desk) -> None:
    desk.backlog.drop_stream("plates")
    desk.put("a")
    assert [(answer.kind, answer.reason) for answer in desk.answers] == [(OutcomeKind.REJECTED, RejectReason.STORAGE)]
    assert "no stream 'plates' any more" in desk.answers[0].text
    with pytest.raises(NotFound):
        desk.backlog.new_payload("plates", 5)
    assert desk.backlog.figures("plates").stored_total == 0
    assert list(desk.store.recover().entries) == []


def test_a_message_put_while_its_stream_is_dropped_is_either_rejected_or_keeps_the_stream(tmp_path: Path) -> None:
    desk = Desk(SqliteStore(tmp_path))
    start = threading.Barrier(2)

    def put(message_id: str) -> None:
        start.wait()
        desk.put(message_id)

    for number in range(100):
        desk.answers.clear()
        desk.backlog.declare(PLATES)
        putting = threading.Thread(target=put, args=(f"m{number}",))
        putting.start()
        start.wait()
        try:
            desk.backlog.drop_stream("plates")
        except Conflict:
            is_kept = True
        else:
            is_kept = False
        putting.join()
        wait_until(lambda: desk.answers, what="the answer to the put")
        if desk.answers == [STORED]:
            assert is_kept, "a stored message was dropped"
            desk.backlog.settle(desk.reserve(), DONE)
            wait_until(lambda: desk.backlog.figures("plates").reserved == 0)
        else:
            assert not is_kept
            assert desk.state(f"m{number}") is None
    desk.backlog.close()


def test_everything_is_there_again_after_a_restart(tmp_path: Path) -> None:
    first = Desk(SqliteStore(tmp_path))
    for message_id in "abcd":
        first.put(message_id, message_id.encode() * 100_000)
    first.put("gone", b"x", flags=int(Flag.DEAD), failure=FATAL)
    wait_until(lambda: len(first.answers) == 5, what="everything to be stored")
    first.backlog.settle(first.reserve(), DONE)
    first.backlog.settle(first.reserve(), Outcome(OutcomeKind.FAILED, failure=ERROR))
    first.reserve()
    first.backlog.close()

    second = Desk(SqliteStore(tmp_path))
    figures = second.backlog.figures("plates")
    assert (figures.ready, figures.reserved, figures.dead) == (3, 0, 1)
    assert [second.state(message_id) for message_id in ("a", "b", "gone")] == ["done", "waiting", "dead"]
    for message_id, attempts in (("b", 1), ("c", 0), ("d", 0)):
        reservation = second.reserve()
        assert (reservation.entry.message_id, reservation.entry.attempts) == (message_id, attempts)
        assert reservation.entry.section == b"\x80"
        with second.backlog.open_payload(reservation) as payload:
            assert bytes(payload.view) == message_id.encode() * 100_000
    second.put("a", b"a" * 100_000)
    second.put("new", b"x")
    wait_until(lambda: len(second.answers) == 2, what="the new message to be stored")
    assert second.answers == [STORED, STORED]
    assert second.backlog.figures("plates").ready == 1
    second.backlog.close()


def test_large_payloads_arrive_in_files_and_so_do_those_that_memory_has_no_room_for(tmp_path: Path) -> None:
    backlog = Backlog(SqliteStore(tmp_path), arriving_memory_bytes=250_000)
    backlog.declare(StreamDeclaration("plates", handler="/h.py", memory_payload_max_bytes=200_000))
    arrivals = [backlog.new_payload("plates", size_bytes) for size_bytes in (200_001, 150_000, 150_000, 100)]
    assert [arrival.is_on_disk for arrival in arrivals] == [True, False, True, False]
    for arrival in arrivals:
        arrival.discard()
    again = backlog.new_payload("plates", 150_000)
    assert not again.is_on_disk
    again.discard()
    backlog.close()
    assert not list(tmp_path.glob("payloads/*/*"))


def test_many_threads_put_and_take_and_each_message_is_processed_once(tmp_path: Path) -> None:
    backlog = Backlog(SqliteStore(tmp_path))
    backlog.declare(PLATES)
    sources, engines, each_puts = 4, 3, 150
    answers: list[Outcome] = []
    taken: list[str] = []
    is_over = threading.Event()

    def put(source: int) -> None:
        for number in range(each_puts):
            payload = bytes([number]) * (70_000 if number % 10 == 0 else 50)
            backlog.put("plates", message(f"{source}/{number}", payload), None, answers.append)

    def take(engine: str) -> None:
        while not is_over.is_set():
            reservation = backlog.reserve("plates", engine, time.monotonic())
            if reservation is None:
                is_over.wait(0.001)
                continue
            with backlog.open_payload(reservation) as payload:
                assert set(bytes(payload.view)) == {int(reservation.entry.message_id.split("/")[1])}
            backlog.settle(reservation, DONE)
            taken.append(reservation.entry.message_id)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(sources)]
    threads += [threading.Thread(target=take, args=(f"e{number}",)) for number in range(engines)]
    for thread in threads:
        thread.start()
    wait_until(
        lambda: backlog.figures("plates").done_total == sources * each_puts, timeout_s=30, what="all to be processed"
    )
    is_over.set()
    for thread in threads:
        thread.join()
    assert len(answers) == len(taken) == len(set(taken)) == sources * each_puts
    assert all(answer == STORED for answer in answers)
    figures = backlog.figures("plates")
    assert (figures.ready, figures.reserved, figures.dead, figures.waiting_bytes) == (0, 0, 0, 0)
    backlog.close()
    assert not list(tmp_path.glob("payloads/*/*"))
