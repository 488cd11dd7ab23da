"""The stream connector against an engine and a master's data port that the tests play over real sockets."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from harmonicio.control.messages import BacklogAccess, Lease, LeaseGrant, LeaseList, LeaseRenewal, LeaseRequest
from harmonicio.core.errors import (
    HandlerFailed,
    HarmonicIOError,
    InvalidInput,
    MasterUnavailable,
    MessageRejected,
    NotFound,
    OutcomeTimeout,
    UndeliveredError,
)
from harmonicio.core.message import Failure, Outcome, OutcomeKind, RejectReason
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.transport.data_port import DataPort, Session
from harmonicio.transport.link import Link
from harmonicio.wire.events import Event, Hello, IncomingMessage, MessageBegun, MessageReceived, Result, Role, Subscribe
from harmonicio.wire.frames import VERSION
from harmonicio.wire.outcomes import DONE, STORED
from harmonicio.wire.sections import credit_frame, outcomes_frame, results_frame

Answer = Callable[[IncomingMessage], Outcome | None]


class Receiver:
    """A data port that answers each message as a test says, and remembers what came."""

    def __init__(self, role: Role, answer: Answer, *, window: int = 64, max_message_bytes: int = 2**40) -> None:
        self.role = role
        self.answer = answer
        self.window = window
        self.max_message_bytes = max_message_bytes
        self.messages: list[tuple[str, bytes]] = []
        self.seen: list[IncomingMessage] = []
        self.sessions: list[_Received] = []
        self.port = DataPort("127.0.0.1", 0, self._receive, name=str(role))
        self.port.start()

    def _receive(self, link: Link, hello: Hello) -> tuple[Hello, Session]:
        session = _Received(self, link)
        self.sessions.append(session)
        return Hello(self.role, max_message_bytes=self.max_message_bytes, versions=(VERSION,)), session


class _Received:
    def __init__(self, receiver: Receiver, link: Link) -> None:
        self.receiver = receiver
        self.link = link
        self.answered = 0

    def opened(self) -> None:
        if self.receiver.window:
            self.link.send(credit_frame(self.receiver.window, 2**40))

    def handle(self, event: Event) -> None:
        if isinstance(event, MessageBegun):
            self.link.receive_payload(memoryview(bytearray(event.message.size_bytes)))
        elif isinstance(event, MessageReceived):
            message = event.message
            self.receiver.messages.append((message.id, bytes(message.payload)))
            self.receiver.seen.append(message)
            outcome = self.receiver.answer(message)
            if outcome is not None:
                self.link.send(outcomes_frame([(message.sequence, message.sequence, outcome)]))
                self.answered += 1
                self.link.send(credit_frame(self.answered + self.receiver.window, 2**40))
        elif isinstance(event, Subscribe):
            self.link.send(results_frame([Result(each, DONE) for each in event.message_ids]))

    def pause(self) -> None:
        """Answers go at once."""

    def closed(self, error: HarmonicIOError | None) -> None:
        """Nothing is held."""


class FakeMaster:
    """Grants one lease on each engine, and access to the backlog."""

    url = "http://127.0.0.1:1"

    def __init__(self, engines: list[Receiver], backlog: Receiver) -> None:
        self.engines = engines
        self.backlog = backlog
        self.error: HarmonicIOError | None = None
        self.released: list[str] = []
        self._granted = 0

    def request_leases(self, request: LeaseRequest) -> LeaseGrant:
        if self.error is not None:
            raise self.error
        new = self.engines[self._granted :]
        leases = tuple(
            Lease(f"l-{number}", f"e-{number}", engine.port.address, "ticket", 60.0)
            for number, engine in enumerate(new, self._granted)
        )
        self._granted += len(new)
        access = BacklogAccess(self.backlog.port.address, "ticket", 60.0)
        return LeaseGrant(leases, access, "engine" if leases else "queue", 0.2)

    def renew_leases(self, held: LeaseList) -> LeaseRenewal:
        return LeaseRenewal(held.leases, ())

    def release_leases(self, held: LeaseList) -> None:
        self.released += held.leases

    def close(self) -> None:
        """Nothing is held."""


def done(message: IncomingMessage) -> Outcome:
    return Outcome(OutcomeKind.DONE, result=len(message.payload))


def stored(_: IncomingMessage) -> Outcome:
    return STORED


class World:
    """One engine and the backlog; tests change them before they connect."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.engines: list[Receiver] = []
        self.backlog = self._receiver(Role.MASTER, stored)
        self.master = FakeMaster(self.engines, self.backlog)

    def engine(self, answer: Answer = done, **options: int) -> Receiver:
        engine = self._receiver(Role.ENGINE, answer, **options)
        self.engines.append(engine)
        return engine

    def _receiver(self, role: Role, answer: Answer, **options: int) -> Receiver:
        receiver = Receiver(role, answer, **options)
        self._stack.callback(receiver.port.close)
        return receiver

    def connect(self, **options: object) -> StreamConnector:
        return StreamConnector(stream="images", client=self.master, **options)


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


def test_messages_go_to_the_engine_and_results_come_back(world: World) -> None:
    engine = world.engine()
    payloads = [b"", b"x", os.urandom(65_536), os.urandom(65_537), os.urandom(3_000_000)]
    with world.connect() as connector:
        deliveries = [connector.send(payload, metadata={"n": n}) for n, payload in enumerate(payloads)]
        assert [each.result(10) for each in deliveries] == [len(payload) for payload in payloads]
        assert {each.route for each in deliveries} == {"engine"}
    assert [payload for _, payload in engine.messages] == payloads
    assert [message.metadata for message in engine.seen] == [{"n": n} for n in range(5)]
    assert world.master.released == ["l-0"]


def test_fifty_thousand_small_messages_arrive_once_and_in_few_calls(world: World) -> None:
    engine = world.engine(lambda _: DONE, window=2_000)
    with world.connect(patience_s=60.0) as connector:
        for number in range(50_000):
            connector.send(b"%d" % number)
        connector.flush("processed", timeout_s=60)
        assert connector.figures().via_engine == 50_000
    assert [int(payload) for _, payload in engine.messages] == list(range(50_000))


def test_messages_are_spread_over_engines(world: World) -> None:
    engines = [world.engine(window=1) for _ in range(4)]
    with world.connect(patience_s=60.0) as connector:
        for _ in range(200):
            connector.send(bytes(1000))
        connector.flush("safe", timeout_s=20)
    assert sum(len(engine.messages) for engine in engines) == 200
    assert min(len(engine.messages) for engine in engines) > 0


def test_without_credit_messages_go_to_the_backlog_after_the_patience(world: World) -> None:
    world.engine(window=0)
    with world.connect(patience_s=0.05) as connector:
        deliveries = [connector.send(b"image") for _ in range(20)]
        connector.flush("safe", timeout_s=10)
        assert {each.route for each in deliveries} == {"backlog"}
        assert len(world.backlog.messages) == 20
        connector.flush("processed", timeout_s=10)
        assert all(each.is_final for each in deliveries)


def test_without_engines_everything_goes_to_the_backlog(world: World) -> None:
    with world.connect() as connector:
        assert connector.send(b"image").result(10) is None
    assert len(world.backlog.messages) == 1


def test_what_was_in_flight_when_an_engine_vanished_goes_to_the_backlog_as_suspects(world: World) -> None:
    engine = world.engine(lambda _: None)
    with world.connect() as connector:
        deliveries = [connector.send(os.urandom(200_000)) for _ in range(5)]
        wait_until(lambda: len(engine.messages) == 5)
        engine.port.close()
        connector.flush("safe", timeout_s=10)
        assert {each.route for each in deliveries} == {"backlog"}
    assert sorted(world.backlog.messages) == sorted(engine.messages)
    assert all(message.is_suspect for message in world.backlog.seen)


def test_an_engine_that_vanishes_in_the_middle_of_large_messages_loses_none(world: World) -> None:
    engine = world.engine()
    payloads = [os.urandom(20_000_000) for _ in range(6)]
    with world.connect(patience_s=5.0) as connector:
        deliveries = [connector.send(payload) for payload in payloads]
        wait_until(lambda: engine.port.received_bytes > 30_000_000)
        threading.Thread(target=engine.port.close).start()
        connector.flush("safe", timeout_s=30)
        assert all(each.is_safe for each in deliveries)
    arrived = {payload for _, payload in engine.messages + world.backlog.messages}
    assert arrived == set(payloads)
    wait_until(lambda: engine.port.connections == 0)


def test_a_failed_message_is_given_to_the_master_with_its_failure(world: World) -> None:
    failure = Failure("ValueError", "bad image", "Traceback …", retryable=False)
    world.engine(lambda _: Outcome(OutcomeKind.FAILED, failure=failure))
    with world.connect() as connector:
        connector.send(b"image")
        connector.flush("safe", timeout_s=10)
    (message,) = world.backlog.seen
    assert message.is_dead
    assert message.attempts == 1
    assert message.failure == failure


def test_a_message_that_no_receiver_takes_is_rejected(world: World) -> None:
    world.engine(max_message_bytes=100)
    with world.connect() as connector:
        delivery = connector.send(bytes(101))
        with pytest.raises(MessageRejected, match="101 bytes"):
            delivery.result(10)
        assert connector.send(bytes(100)).result(10) == 100


def test_an_id_conflict_is_final_and_damage_is_not(world: World) -> None:
    answers = iter([RejectReason.CHECKSUM, RejectReason.ID_CONFLICT])
    world.engine(lambda _: Outcome(OutcomeKind.REJECTED, reason=next(answers)))
    with world.connect() as connector, pytest.raises(MessageRejected) as caught:
        connector.send(b"image").result(10)
    assert caught.value.reason == "id_conflict"


def test_flush_raises_the_failure_that_nobody_awaited(world: World) -> None:
    world.engine(lambda _: Outcome(OutcomeKind.REJECTED, reason=RejectReason.ID_CONFLICT, text="taken"))
    with world.connect() as connector:
        connector.send(b"image")
        with pytest.raises(MessageRejected, match="taken"):
            connector.flush("processed", timeout_s=10)


def test_send_blocks_when_the_byte_budget_is_used_up_and_goes_on_when_there_is_room(world: World) -> None:
    may_answer = threading.Event()

    def answer(_: IncomingMessage) -> Outcome:
        may_answer.wait(20)
        return DONE

    world.engine(answer)
    with world.connect(byte_budget_bytes=250_000, patience_s=60.0) as connector:
        sender = threading.Thread(target=lambda: [connector.send(bytes(100_000)) for _ in range(5)])
        sender.start()
        wait_until(lambda: connector.figures().sent == 2)
        sender.join(0.2)
        assert connector.figures().sent == 2
        may_answer.set()
        sender.join(10)
        assert connector.figures().sent == 5


def test_a_file_is_sent_without_being_in_memory(world: World, tmp_path: Path) -> None:
    seen: list[tuple[int, bytes]] = []

    def answer(message: IncomingMessage) -> Outcome:
        seen.append((len(message.payload), bytes(message.payload[-4:])))
        return DONE

    engine = world.engine(answer)
    path = tmp_path / "volume.raw"
    with path.open("wb") as file:
        file.truncate(100_000_000)
        file.seek(99_999_996)
        file.write(b"last")
    with world.connect(patience_s=60.0) as connector:
        connector.send_file(path).result(30)
        connector.send_file(_empty(tmp_path)).result(10)
    assert seen == [(100_000_000, b"last"), (0, b"")]
    engine.messages.clear()


def _empty(folder: Path) -> Path:
    (folder / "empty").touch()
    return folder / "empty"


def test_writable_buffers_are_copied_and_arrays_are_sent_as_they_lie(world: World) -> None:
    engine = world.engine()
    array = np.arange(12, dtype=np.uint16).reshape(3, 4)
    with world.connect() as connector:
        first = connector.send(array)
        array[:] = 0
        first.result(10)
        with pytest.raises(InvalidInput, match="not contiguous"):
            connector.send(np.arange(12).reshape(3, 4).T)
        with pytest.raises(InvalidInput, match="cannot be sent"):
            connector.send("text")
        with pytest.raises(InvalidInput):
            connector.send(b"", metadata={"a": object()})
    assert engine.messages[0][1] == np.arange(12, dtype=np.uint16).tobytes()


def test_an_unknown_stream_is_said_at_once(world: World) -> None:
    world.master.error = NotFound("There is no stream 'images'.")
    with pytest.raises(NotFound), world.connect():
        pass


def test_close_names_the_messages_that_are_not_safe(world: World) -> None:
    world.master.error = MasterUnavailable("The master at http://127.0.0.1:1 does not answer.")
    connector = world.connect()
    delivery = connector.send(b"image")
    with pytest.raises(UndeliveredError) as caught:
        connector.close(timeout_s=0.3)
    assert caught.value.message_ids == (delivery.message_id,)


def test_messages_wait_for_a_master_that_comes_back(world: World) -> None:
    world.engine()
    world.master.error = MasterUnavailable("The master does not answer.")
    with world.connect() as connector:
        delivery = connector.send(b"image")
        with pytest.raises(OutcomeTimeout):
            delivery.result(0.3)
        world.master.error = None
        assert delivery.result(10) == 5


def test_a_handlers_failure_has_its_traceback(world: World) -> None:
    failure = Failure("KeyError", "'well'", "Traceback: line 3", retryable=False)
    world.engine(lambda _: Outcome(OutcomeKind.FAILED, failure=failure))

    class Dead(_Received):
        def handle(self, event: Event) -> None:
            if isinstance(event, Subscribe):
                outcome = Outcome(OutcomeKind.FAILED, failure=failure)
                self.link.send(results_frame([Result(each, outcome) for each in event.message_ids]))
            else:
                super().handle(event)

    def receive(link: Link, hello: Hello) -> tuple[Hello, Session]:
        return Hello(Role.MASTER, versions=(VERSION,)), Dead(world.backlog, link)

    world.backlog.port._reception = receive
    with world.connect() as connector, pytest.raises(HandlerFailed) as caught:
        connector.send(b"image").result(10)
    assert caught.value.traceback == "Traceback: line 3"
