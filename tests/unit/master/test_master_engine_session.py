"""An engine's connection to the master: what is pushed stays within its credit, and DEPTH says what is true."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from benches.backlog import PLATES, Desk, reserve_one
from harmonicio.core.errors import RemoteProtocolError
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.backlog import RESERVED_AT_ONCE, Backlog
from harmonicio.master.backlog.base import PayloadLease, StoreLimits, damaged
from harmonicio.master.backlog.entry import Entry, Reservation
from harmonicio.master.backlog.memory import MemoryStore
from harmonicio.master.engine_session import BATCH_BYTES, EngineSession
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.connection import Connection
from harmonicio.wire.events import Credit, IncomingMessage, OutcomeRange, OutcomesReceived
from harmonicio.wire.sections import depth_frame

#: Two of them do not leave in one call.
LARGE_BYTES = BATCH_BYTES // 2 + 1


class SlowStore(MemoryStore):
    """Reads a payload only once it is let."""

    def __init__(self) -> None:
        super().__init__(StoreLimits())
        self.is_reading = threading.Event()
        self.may_read = threading.Event()

    def read(self, entry: Entry) -> PayloadLease:
        self.is_reading.set()
        assert self.may_read.wait(20)
        return super().read(entry)


class AheadStore(SlowStore):
    """Remembers what it was to fetch ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead: list[str] = []

    def read_ahead(self, entry: Entry) -> None:
        self.ahead.append(entry.message_id)


class DamagedStore(MemoryStore):
    """Has damaged every payload."""

    def __init__(self) -> None:
        super().__init__(StoreLimits())

    def read(self, entry: Entry) -> PayloadLease:
        raise damaged("The payload is not what was stored.")


class SeenChannel:
    """Knows whether it was shut down."""

    def __init__(self) -> None:
        self.is_shut_down = threading.Event()

    def shutdown(self) -> None:
        self.is_shut_down.set()


class SeenLink:
    """The sending half of a link: keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.connection = Connection()
        self.channel = SeenChannel()

    def send(self, *buffers: bytes | memoryview) -> None:
        self.sent += map(bytes, buffers)


class ChangingBacklog:
    """Another depth each time it is asked."""

    def __init__(self, *depths: int) -> None:
        self._depths = list(depths)

    def depth(self, stream: str) -> int:
        return self._depths.pop(0)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def put(backlog: Backlog, name: str, payload: bytes = b"cells", depth: int = 1) -> None:
    message = IncomingMessage(0, name, len(payload), memoryview(payload))
    backlog.put("images", message, None, lambda _: None)
    wait_until(lambda: backlog.depth("images") == depth)


def assign(session: EngineSession, reservation: Reservation) -> None:
    session.expect(reservation.entry.size_bytes)
    session.assign([reservation])


def new_session(
    link: SeenLink,
    backlog: object,
    executor: ThreadPoolExecutor,
    on_room: Callable[[str], None] = lambda _: None,
    stream: str = "images",
) -> EngineSession:
    return EngineSession(
        link,  # type: ignore[arg-type]
        "e-1",
        "e-1#1",
        stream,
        backlog,  # type: ignore[arg-type]
        executor,
        checksum="",
        on_room=on_room,
        on_closed=lambda _: None,
    )


def test_a_message_whose_payload_is_being_read_uses_credit(executor: ThreadPoolExecutor) -> None:
    store, link = SlowStore(), SeenLink()
    backlog = Backlog(store)
    backlog.declare(StreamDeclaration("images", handler="/handler.py"))
    put(backlog, "first")
    session = new_session(link, backlog, executor)
    session.opened()
    session.handle(Credit(1, 1_000))
    reservation = reserve_one(backlog, "images", session.holder, time.monotonic())
    assert reservation is not None and session.can_take(5)
    assign(session, reservation)
    assert store.is_reading.wait(20)
    assert not session.can_take(5)
    assert session.load == 1
    store.may_read.set()
    wait_until(lambda: b"cells" in link.sent)
    assert not session.can_take(5)
    assert session.load == 1
    backlog.close()


def test_what_goes_behind_a_message_is_fetched_while_that_is_read_and_sent(executor: ThreadPoolExecutor) -> None:
    store, link = AheadStore(), SeenLink()
    backlog = Backlog(store)
    backlog.declare(StreamDeclaration("images", handler="/handler.py"))
    for number, name in enumerate(("first", "second", "third"), 1):
        put(backlog, name, bytes(LARGE_BYTES), depth=number)
    session = new_session(link, backlog, executor)
    session.handle(Credit(9, 9 * LARGE_BYTES))
    for _ in range(3):
        reservation = reserve_one(backlog, "images", session.holder, time.monotonic())
        assert reservation is not None
        assign(session, reservation)
    session.opened()
    assert store.is_reading.wait(20)
    assert store.ahead == ["second", "third"], "and nothing is sent yet"
    store.may_read.set()
    wait_until(lambda: link.sent.count(bytes(LARGE_BYTES)) == 3)
    assert store.ahead == ["second", "third"], "once each"
    backlog.close()


@pytest.mark.parametrize("reason", ["its payload is damaged", "it was given up meanwhile"])
def test_a_message_that_is_not_sent_after_all_makes_room_for_the_next(
    executor: ThreadPoolExecutor, reason: str
) -> None:
    store, link, room = DamagedStore(), SeenLink(), []
    backlog = Backlog(store)
    backlog.declare(StreamDeclaration("images", handler="/handler.py"))
    session = new_session(link, backlog, executor, on_room=lambda _: room.append(session.can_take(5)))
    session.opened()
    session.handle(Credit(1, 1_000))
    put(backlog, "first")
    reservation = reserve_one(backlog, "images", session.holder, time.monotonic())
    assert reservation is not None
    if reason == "it was given up meanwhile":
        backlog.engine_gone(session.holder)
    assign(session, reservation)
    wait_until(lambda: session.load == 0)
    # Until then the message has used the only credit: whoever waited was told that there is none.
    wait_until(lambda: len(room) == 3)
    assert room == [False, True, True], "opened, credit, and the message that was not sent"
    assert link.sent.count(b"cells") == 0
    backlog.close()


def test_an_engine_has_room_again_when_it_has_taken_what_it_refused_or_something_larger(
    executor: ThreadPoolExecutor,
) -> None:
    backlog, link = Backlog(MemoryStore(StoreLimits())), SeenLink()
    backlog.declare(StreamDeclaration("images", handler="/handler.py"))
    session = new_session(link, backlog, executor)
    session.opened()
    session.handle(Credit(10, 1_000))
    no_room = Outcome.rejected(RejectReason.STORAGE, "disk full")
    draining = Outcome.rejected(RejectReason.DRAINING, "bye")
    not_kept = Outcome.rejected(RejectReason.NOT_KEPT, "the tier is away")
    done = Outcome(OutcomeKind.DONE)
    answers = [
        (5, no_room, 1),
        (9, no_room, 2),
        (4, done, 2),
        (9, draining, 2),
        (7, not_kept, 2),
        (5, done, 0),
        (1, done, 0),
    ]
    for number, (size_bytes, outcome, refusals) in enumerate(answers):
        put(backlog, f"m{number}", b"cells and more"[:size_bytes])
        reservation = reserve_one(backlog, "images", session.holder, time.monotonic())
        assert reservation is not None
        assign(session, reservation)
        wait_until(lambda expected=size_bytes: bool(link.sent) and len(link.sent[-1]) == expected)
        session.handle(OutcomesReceived((OutcomeRange(number, number, outcome),)))
        assert session.refusals == refusals
    backlog.close()


def test_what_is_answered_and_not_decided_yet_is_not_called_answered(executor: ThreadPoolExecutor) -> None:
    backlog, link = Backlog(MemoryStore(StoreLimits())), SeenLink()
    backlog.declare(StreamDeclaration("images", handler="/handler.py"))
    session = new_session(link, backlog, executor)
    session.opened()
    session.handle(Credit(3, 1_000))
    for number in range(3):
        put(backlog, f"m{number}")
        reservation = reserve_one(backlog, "images", session.holder, time.monotonic())
        assert reservation is not None
        assign(session, reservation)
    wait_until(lambda: link.sent.count(b"cells") == 3)
    decide, seen = backlog.settle, []

    def settle(reservations: Sequence[Reservation], outcome: Outcome) -> None:
        seen.append(session.has_unanswered)
        decide(reservations, outcome)

    backlog.settle = settle  # type: ignore[method-assign]
    session.handle(OutcomesReceived((OutcomeRange(0, 2, Outcome(OutcomeKind.DONE)),)))
    assert (seen, session.has_unanswered) == ([True], False), "a master that drains would have ended in between"
    with pytest.raises(RemoteProtocolError):
        session.handle(OutcomesReceived((OutcomeRange(2, 2, Outcome(OutcomeKind.DONE)),)))
    backlog.close()


def test_an_engine_is_given_more_when_no_more_of_its_answers_are_here_or_many_were(
    executor: ThreadPoolExecutor,
) -> None:
    desk, link, room = Desk(MemoryStore()), SeenLink(), []
    session = new_session(link, desk.backlog, executor, on_room=room.append)
    session.opened()
    session.handle(Credit(1_000, 1_000_000))
    for number in range(RESERVED_AT_ONCE + 2):
        desk.put(f"m{number}")
        assign(session, desk.reserve(session.holder))
    wait_until(lambda: link.sent.count(b"cells") == RESERVED_AT_ONCE + 2)
    room.clear()
    for number in (0, 1):
        session.handle(OutcomesReceived((OutcomeRange(number, number, Outcome(OutcomeKind.DONE)),)))
    assert room == [], "the next answer may be here already"
    session.pause()
    assert room == ["images"]
    session.handle(OutcomesReceived((OutcomeRange(2, RESERVED_AT_ONCE + 1, Outcome(OutcomeKind.DONE)),)))
    assert room == ["images"] * 2, "the engine must not run out of work while its answers are read"
    session.pause()
    assert room == ["images"] * 2
    desk.backlog.close()


def test_the_depth_that_an_engine_hears_is_the_one_that_was_decided_by(executor: ThreadPoolExecutor) -> None:
    link = SeenLink()
    session = new_session(link, ChangingBacklog(5, 0, 7, 0), executor)
    session.opened()
    for told in (depth_frame(5), depth_frame(0), depth_frame(7)):
        wait_until(lambda: bool(link.sent))
        assert link.sent.pop() == told
        session.depth_changed()


def test_nothing_is_sent_before_the_session_is_open() -> None:
    link = SeenLink()
    with ThreadPoolExecutor(1) as single:
        session = new_session(link, ChangingBacklog(5), single)
        session.depth_changed()
        single.submit(int).result(20)
        assert link.sent == []
        session.opened()
        single.submit(int).result(20)
        assert link.sent == [depth_frame(5)]


def test_after_a_bug_in_a_session_nothing_is_sent_and_the_connection_ends(executor: ThreadPoolExecutor) -> None:
    link = SeenLink()
    session = new_session(link, ChangingBacklog(), executor)
    session.opened()
    assert link.channel.is_shut_down.wait(20)
    session.depth_changed()
    assert link.sent == []


class SlowLink(SeenLink):
    """Takes longer to send a payload than a reservation lasts."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def send(self, *buffers: bytes | memoryview) -> None:
        if len(buffers) > 1:
            self._desk.clock.advance(10 * PLATES.timeout_s)
            self._desk.backlog.tick()
        super().send(*buffers)


def test_a_payload_that_is_sent_for_longer_than_a_reservation_lasts_is_held_meanwhile(
    executor: ThreadPoolExecutor,
) -> None:
    desk = Desk(MemoryStore())
    link = SlowLink(desk)
    session = new_session(link, desk.backlog, executor, stream="plates")
    session.opened()
    session.handle(Credit(2, 1_000_000))
    desk.put("a")
    desk.put("b")
    held, expired = desk.reserve(session.holder), desk.reserve(session.holder)
    assign(session, held)
    wait_until(lambda: b"cells" in link.sent)
    assert desk.state("a") == "reserved"
    assign(session, expired)  # Its time was over while the other one was being sent.
    wait_until(lambda: session.load == 1)
    assert link.sent.count(b"cells") == 1 and desk.backlog.depth("plates") == 1
    session.handle(OutcomesReceived((OutcomeRange(0, 0, Outcome(OutcomeKind.DONE)),)))
    wait_until(lambda: desk.state("a") == "done")
    assert desk.backlog.figures("plates").late_total == 0
    desk.backlog.close()


def test_what_stands_with_a_payload_that_takes_long_to_be_read_expires_and_is_not_sent(
    executor: ThreadPoolExecutor,
) -> None:
    store, link, rooms = SlowStore(), SeenLink(), threading.Event()
    desk = Desk(store)
    session = new_session(link, desk.backlog, executor, lambda _: rooms.set(), stream="plates")
    session.handle(Credit(2, 1_000_000))
    for name in ("a", "b"):
        desk.put(name)
        assign(session, desk.reserve(session.holder))
    session.opened()
    assert store.is_reading.wait(20)
    desk.clock.advance(10 * PLATES.timeout_s)
    desk.backlog.tick()
    assert "reserved" not in (desk.state("a"), desk.state("b")), "another engine may have them"
    rooms.clear()
    store.may_read.set()
    assert rooms.wait(20)
    assert b"cells" not in link.sent
    desk.backlog.close()
