"""The master's data port between a connector and an engine that the tests play over real sockets."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import ref

import pytest

from benches.intake import connector, engine
from harmonicio.core.errors import ConnectionEnded, NotAllowed
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.backlog import Backlog
from harmonicio.master.backlog.stores import create_store
from harmonicio.master.intake import Intake
from harmonicio.testing.waiting import wait_until
from harmonicio.transport import tcp
from harmonicio.transport.link import Link
from harmonicio.wire.codec import pack_value
from harmonicio.wire.connection import message_prefix, raw_prefix
from harmonicio.wire.events import Credit, Depth, Goodbye, Hello, IncomingMessage, ResultsReceived, Role
from harmonicio.wire.frames import VERSION, Flag
from harmonicio.wire.metadata import METADATA_ONLY
from harmonicio.wire.sections import credit_frame, outcomes_frame, packed_detail, subscribe_frame

STREAM = StreamDeclaration("images", handler="/handler.py", max_message_bytes=50_000_000, max_attempts=2)


@pytest.fixture(params=["memory", "sqlite"])
def backlog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backlog]:
    with closing(Backlog(create_store(request.param, tmp_path / "backlog"))) as opened:
        opened.declare(STREAM)
        yield opened


def verify_source(ticket: str) -> Claims:
    if ticket != "good":
        raise NotAllowed("The intake ticket is not valid here.", hint="Ask the master for a new one.")
    return Claims(TicketKind.INTAKE, "images", 60.0, 0.0, 1, source="microscope")


def intake_of(
    backlog: Backlog,
    find_stream: Callable[[str], StreamDeclaration] = lambda _: STREAM,
    verify_intake: Callable[[str], Claims] = verify_source,
) -> Intake:
    def verify_engine(worker: str, engine: str, ticket: str) -> Claims:
        return Claims(TicketKind.ENGINE, "images", 60.0, 0.0, 0, engine=engine)

    return Intake(
        "127.0.0.1", 0, backlog, verify_intake=verify_intake, verify_engine=verify_engine, find_stream=find_stream
    )


@pytest.fixture
def intake(backlog: Backlog) -> Iterator[Intake]:
    served = intake_of(backlog)
    served.start()
    with closing(served):
        yield served


def test_what_an_engine_had_whose_process_has_ended_goes_to_another_although_its_connection_is_open(
    intake: Intake,
) -> None:
    with closing(connector(intake)) as source, closing(engine(intake, "e-1")) as ended:
        ended.link.send(credit_frame(1, 1000))
        source.wait_for(Credit)
        source.link.send(message_prefix("m", 3), b"abc")
        ended.wait_for(IncomingMessage)
        with closing(engine(intake, "e-2")) as other:
            other.link.send(credit_frame(1, 1000))
            intake.end_engine("e-1")
            (received,) = other.wait_for(IncomingMessage)
            assert received.id == "m"


def test_messages_are_answered_stored_and_pushed_in_order_of_priority(intake: Intake, backlog: Backlog) -> None:
    payloads = [os.urandom(size) for size in (0, 10, 70_000, 3_000_000)]
    with closing(connector(intake)) as source:
        source.wait_for(Credit)
        for number, payload in enumerate(payloads):
            source.link.send(message_prefix(f"m{number}", len(payload), priority=number), payload)
        assert {each.kind for each in source.outcomes(4).values()} == {OutcomeKind.STORED}
        assert backlog.depth("images") == 4
        with closing(engine(intake)) as worker:
            worker.link.send(credit_frame(4, 100_000_000))
            received = worker.wait_for(IncomingMessage, 4)
            ids = [event.id for event in received]
            assert ids == ["m3", "m2", "m1", "m0"]
            assert [bytes(event.payload) for event in received] == payloads[::-1]
            worker.link.send(outcomes_frame([(0, 3, OutcomeKind.DONE, b"")]))
            wait_until(lambda: backlog.figures("images").done_total == 4)
    assert backlog.figures("images").reserved == 0


def test_a_connection_that_has_ended_leaves_nothing_to_the_collector_of_garbage(intake: Intake) -> None:
    """It comes late to what has lived for long: thousands that come back at once would be held for minutes."""
    gc.disable()
    try:
        with closing(connector(intake)) as source, closing(engine(intake)) as worker:
            source.wait_for(Credit)
            worker.link.send(credit_frame(1, 1000))
            source.link.send(message_prefix("m", 3), b"abc")
            worker.wait_for(IncomingMessage)
            worker.link.send(outcomes_frame([(0, 0, OutcomeKind.DONE, b"")]))
            source.outcomes(1)
            sessions = [ref(each) for each in intake._sessions()]
            links = [ref(each()._link) for each in sessions]  # type: ignore[union-attr]
        wait_until(lambda: not [each() for each in (*sessions, *links) if each()], 20, what="the end of both")
    finally:
        gc.enable()
    assert len(sessions) == 2


def test_a_message_that_is_stored_while_an_engine_waits_is_pushed_at_once(intake: Intake) -> None:
    with closing(engine(intake)) as worker, closing(connector(intake)) as source:
        worker.link.send(credit_frame(1, 1_000))
        source.wait_for(Credit)
        source.link.send(message_prefix("only", 3), b"abc")
        (event,) = worker.wait_for(IncomingMessage)
        assert event.id == "only"


def test_an_engine_hears_when_messages_wait_and_when_none_does(intake: Intake) -> None:
    with closing(engine(intake)) as worker, closing(connector(intake)) as source:
        source.wait_for(Credit)
        source.link.send(message_prefix("first", 0), message_prefix("second", 0))
        assert worker.wait_for(Depth)[0].messages > 0
        worker.link.send(credit_frame(2, 1_000))
        assert worker.wait_for(Depth, 2)[-1].messages == 0


def test_what_an_engine_held_when_its_connection_ended_goes_to_another_as_a_suspect(
    intake: Intake, backlog: Backlog
) -> None:
    with closing(connector(intake)) as source:
        source.wait_for(Credit)
        source.link.send(message_prefix("held", 1), b"x")
        with closing(engine(intake)) as first:
            first.link.send(credit_frame(1, 10))
            first.wait_for(IncomingMessage)
        with closing(engine(intake, "e-2")) as second:
            second.link.send(credit_frame(1, 10))
            (event,) = second.wait_for(IncomingMessage)
            assert event.id == "held"
            assert event.is_suspect
            second.link.send(outcomes_frame([(0, 0, OutcomeKind.DONE, b"")]))
            wait_until(lambda: backlog.figures("images").done_total == 1)


NO_ROOM = packed_detail(Outcome.rejected(RejectReason.STORAGE, "No space left on the scratch volume."))


# Time does not pass in these backlogs: no pause of what was put off ever ends.


def test_what_one_host_has_no_room_for_goes_to_an_idle_engine_of_another_at_once(
    intake: Intake, backlog: Backlog
) -> None:
    with closing(engine(intake, "full")) as full, closing(connector(intake)) as source:
        full.link.send(credit_frame(1, 1_000))
        source.wait_for(Credit)
        source.link.send(message_prefix("large", 3), b"abc")
        full.wait_for(IncomingMessage)
        with closing(engine(intake, "roomy")) as roomy:
            roomy.link.send(credit_frame(1, 1_000))
            full.link.send(outcomes_frame([(0, 0, OutcomeKind.REJECTED, NO_ROOM)]), credit_frame(2, 2_000))
            (event,) = roomy.wait_for(IncomingMessage)
            assert event.id == "large"
            roomy.link.send(outcomes_frame([(0, 0, OutcomeKind.DONE, b"")]))
            wait_until(lambda: backlog.figures("images").done_total == 1)


def test_what_all_hosts_had_no_room_for_goes_to_the_next_engine_that_comes(intake: Intake, backlog: Backlog) -> None:
    with closing(engine(intake, "full")) as full, closing(connector(intake)) as source:
        full.link.send(credit_frame(3, 1_000))
        source.wait_for(Credit)
        for number in range(3):
            source.link.send(message_prefix(f"m{number}", 3), b"abc")
        full.wait_for(IncomingMessage, 3)
        full.link.send(outcomes_frame([(0, 2, OutcomeKind.REJECTED, NO_ROOM)]), credit_frame(6, 2_000))
        wait_until(lambda: backlog.figures("images").ready == 3)
        with closing(engine(intake, "roomy")) as roomy:
            for taken in range(1, 4):
                roomy.link.send(credit_frame(taken, 1_000))
                roomy.wait_for(IncomingMessage, taken)
                roomy.link.send(outcomes_frame([(taken - 1, taken - 1, OutcomeKind.DONE, b"")]))
            assert [event.id for event in roomy.wait_for(IncomingMessage, 3)] == ["m0", "m1", "m2"]


def test_an_engine_whose_host_had_no_room_is_asked_last(intake: Intake) -> None:
    with (
        closing(engine(intake, "full")) as full,
        closing(engine(intake, "roomy")) as roomy,
        closing(connector(intake)) as source,
    ):
        full.link.send(credit_frame(1, 1_000))
        source.wait_for(Credit)
        source.link.send(message_prefix("first", 3), b"abc")
        full.wait_for(IncomingMessage)
        full.link.send(outcomes_frame([(0, 0, OutcomeKind.REJECTED, NO_ROOM)]), credit_frame(10, 1_000))
        roomy.link.send(credit_frame(10, 1_000))
        roomy.wait_for(IncomingMessage)
        for number in range(5):
            source.link.send(message_prefix(f"m{number}", 3), b"abc")
            roomy.wait_for(IncomingMessage, number + 2)


def raise_once(error: Exception, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return what fails the first time, as no code of ours should, and afterwards does what ``call`` does."""
    errors = [error]

    def called(*args: Any) -> Any:
        if errors:
            raise errors.pop()
        return call(*args)

    return called


def test_a_bug_while_an_engine_is_sent_to_ends_its_connection_so_that_its_messages_go_to_another(
    intake: Intake, backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "open_payload", raise_once(MemoryError("once"), backlog.open_payload))
    with closing(connector(intake)) as source, closing(engine(intake)) as first:
        source.wait_for(Credit)
        source.link.send(message_prefix("held", 1), b"x")
        first.link.send(credit_frame(1, 10))
        with pytest.raises(ConnectionEnded):
            first.wait_for(IncomingMessage)
        with closing(engine(intake, "e-2")) as second:
            second.link.send(credit_frame(1, 10))
            (event,) = second.wait_for(IncomingMessage)
            assert event.id == "held"


def test_a_bug_while_a_connector_is_answered_ends_its_connection_so_that_it_sends_again(
    intake: Intake, backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(connector(intake)) as source:
        source.wait_for(Credit)
        monkeypatch.setattr(backlog, "can_take", raise_once(MemoryError("once"), backlog.can_take))
        source.link.send(message_prefix("asked", 1), b"x")
        with pytest.raises(ConnectionEnded):
            source.outcomes(1)
    with closing(connector(intake)) as source:
        source.wait_for(Credit)
        source.link.send(message_prefix("asked", 1), b"x")
        assert source.outcomes(1)[0].kind is OutcomeKind.STORED


def test_a_subscriber_hears_the_result_of_a_message_that_took_the_backlog(intake: Intake) -> None:
    with closing(connector(intake)) as source, closing(engine(intake)) as worker:
        source.wait_for(Credit)
        source.link.send(message_prefix("asked", 1), b"x")
        source.outcomes(1)
        source.link.send(subscribe_frame(["asked", "unknown"]))
        worker.link.send(credit_frame(1, 10))
        worker.wait_for(IncomingMessage)
        worker.link.send(outcomes_frame([(0, 0, OutcomeKind.DONE, pack_value({"mean": 0.5}))]))
        source.wait_for(ResultsReceived, 2)
        results = {
            each.message_id: each.outcome
            for event in source.seen
            if isinstance(event, ResultsReceived)
            for each in event.results
        }
        assert results["unknown"] is None
        assert results["asked"].result == {"mean": 0.5}


def test_a_payload_beyond_the_streams_limit_is_rejected_before_it_is_kept(intake: Intake, backlog: Backlog) -> None:
    with closing(connector(intake)) as source:
        source.wait_for(Credit)
        source.link.send(message_prefix("big", 50_000_001), bytes(50_000_001))
        source.link.send(message_prefix("small", 1), b"x")
        answers = source.outcomes(2)
    assert answers[0].reason is RejectReason.TOO_LARGE
    assert answers[1].kind is OutcomeKind.STORED
    assert backlog.depth("images") == 1


def test_a_refused_payload_is_read_and_forgotten_however_large_it_is(intake: Intake, backlog: Backlog) -> None:
    size_bytes = 70 * 1024**2
    with closing(connector(intake)) as source:
        source.wait_for(Credit)
        source.link.send(message_prefix("big", size_bytes), bytes(size_bytes), message_prefix("small", 1), b"x")
        answers = source.outcomes(2)
    assert answers[0].reason is RejectReason.TOO_LARGE
    assert answers[1].kind is OutcomeKind.STORED


def test_what_is_pushed_to_an_engine_has_the_checksum_on_which_both_agreed(intake: Intake) -> None:
    with closing(engine(intake, checksums=("crc32",))) as worker, closing(connector(intake)) as source:
        assert worker.answer.checksums == ("crc32",)
        source.wait_for(Credit)
        worker.link.send(credit_frame(2, 1_000_000))
        for message_id, payload in (("small", b"abc"), ("large", bytes(300_000))):
            source.link.send(message_prefix(message_id, len(payload)), payload)
        received = worker.wait_for(IncomingMessage, 2)
    assert [message.flags & Flag.CHECKSUM_CRC32 for message in received] == [Flag.CHECKSUM_CRC32] * 2
    assert all(message.is_intact for message in received)


def test_the_same_id_with_other_bytes_is_a_conflict_and_with_the_same_bytes_is_stored_once(
    intake: Intake, backlog: Backlog
) -> None:
    with closing(connector(intake)) as source:
        source.wait_for(Credit)
        for payload in (b"abc", b"abc", b"xyz"):
            source.link.send(message_prefix("same", 3), payload)
        answers = source.outcomes(3)
    assert [answers[n].kind for n in range(3)] == [OutcomeKind.STORED, OutcomeKind.STORED, OutcomeKind.REJECTED]
    assert answers[2].reason is RejectReason.ID_CONFLICT
    assert backlog.depth("images") == 1


@pytest.mark.parametrize("size_bytes", [3, 300_000])
def test_metadata_that_nobody_could_read_is_not_stored(intake: Intake, backlog: Backlog, size_bytes: int) -> None:
    with closing(connector(intake)) as source:
        source.wait_for(Credit)
        source.link.send(raw_prefix(bytes(16), size_bytes, METADATA_ONLY + b"\xc1"), bytes(size_bytes))
        with pytest.raises(ConnectionEnded):
            source.outcomes(1)
    assert [event.code for event in source.seen if isinstance(event, Goodbye)] == ["protocol"]
    assert backlog.depth("images") == 0


def test_a_ticket_of_somebody_else_is_refused_with_the_reason(intake: Intake) -> None:
    hello = Hello(Role.CONNECTOR, stream="images", ticket="good", source="thief", versions=(VERSION,))
    link = Link(tcp.dial(intake.address, timeout_s=5), Role.CONNECTOR)
    with closing(link), pytest.raises(NotAllowed, match="somebody else"):
        link.greet(hello)


def test_a_connector_that_vanishes_in_the_middle_of_a_message_leaves_nothing(intake: Intake, backlog: Backlog) -> None:
    with closing(connector(intake)) as source:
        source.wait_for(Credit)
        source.link.send(message_prefix("half", 1_000_000), bytes(500_000))
    wait_until(lambda: "0 connectors" in repr(intake))
    assert backlog.depth("images") == 0
    assert backlog.figures("images").waiting_bytes == 0


def test_a_connector_that_comes_while_its_stream_becomes_ordered_gets_the_credit_of_an_ordered_stream(
    backlog: Backlog,
) -> None:
    declared = [STREAM]
    asked: list[str] = []

    def verify_intake(ticket: str) -> Claims:
        asked.append(ticket)
        if len(asked) == 2:  # The stream was looked up, and the session is not there yet to be ended.
            declared.append(replace(STREAM, ordered=True, max_message_bytes=7))
            intake.end_connectors(lambda claims: claims.stream == "images")
        return verify_source(ticket)

    intake = intake_of(backlog, lambda _: declared[-1], verify_intake)
    intake.start()
    with closing(intake), closing(connector(intake)) as source:
        assert source.answer.max_message_bytes == 7
        (event,) = source.wait_for(Credit)
        assert isinstance(event, Credit) and event.messages == 1


def test_slow_uploads_hold_up_neither_newcomers_nor_engines(intake: Intake, backlog: Backlog) -> None:
    with ExitStack() as peers:
        for number in range(80):
            slow = peers.enter_context(closing(connector(intake)))
            slow.link.send(message_prefix(f"slow{number}", 200_000), bytes(1_000))
        source = peers.enter_context(closing(connector(intake)))
        source.wait_for(Credit)
        source.link.send(message_prefix("quick", 1), b"x")
        assert source.outcomes(1)[0].kind is OutcomeKind.STORED
        worker = peers.enter_context(closing(engine(intake)))
        worker.link.send(credit_frame(1, 10))
        worker.wait_for(IncomingMessage)
        worker.link.send(outcomes_frame([(0, 0, OutcomeKind.DONE, b"")]))
        wait_until(lambda: backlog.figures("images").done_total == 1)


def test_a_small_message_that_is_larger_than_its_stream_takes_is_refused_too(backlog: Backlog) -> None:
    intake = intake_of(backlog, lambda _: replace(STREAM, max_message_bytes=7))
    intake.start()
    with closing(intake), closing(connector(intake)) as source:
        source.wait_for(Credit)
        source.link.send(message_prefix("large", 8), b"12345678", message_prefix("small", 7), b"1234567")
        answers = source.outcomes(2)
    assert (answers[0].reason, answers[1].kind) == (RejectReason.TOO_LARGE, OutcomeKind.STORED)
