"""Payloads in a source's shared memory: what the engine says of views that survive."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from harmonicio.core.stream import StreamDeclaration
from harmonicio.engine.answers import Answers
from harmonicio.engine.arena_payloads import ArenaPayloads
from harmonicio.engine.handler import Handler
from harmonicio.engine.message import Message
from harmonicio.engine.payloads import PayloadStore
from harmonicio.engine.peer import Peer
from harmonicio.engine.roster import Roster
from harmonicio.engine.session import Session, Workshop
from harmonicio.engine.slots import Slots
from harmonicio.engine.work import Work
from harmonicio.transport import memory
from harmonicio.transport.arena import Arena, ArenaView
from harmonicio.transport.link import Link
from harmonicio.wire.events import (
    Event,
    Held,
    Hello,
    IncomingMessage,
    MessagesReceived,
    OutcomesReceived,
    Released,
    Role,
)
from harmonicio.wire.outcomes import DONE


class Bench:
    """The answers of one connection with an arena, and what its sender hears."""

    def __init__(self) -> None:
        self.arena = Arena(2**20)
        self.payloads = ArenaPayloads(ArenaView(os.dup(self.arena.descriptor), 2**20))
        ours, theirs = memory.pair()
        self.engine, self.sender = Link(ours), Link(theirs, Role.CONNECTOR)
        self.sender.send(self.sender.connection.hello(Hello(Role.CONNECTOR)))
        while self.engine.next_event() is None:
            self.engine.read()
        self.engine.send(self.engine.connection.hello(Hello(Role.ENGINE)))
        while self.sender.next_event() is None:
            self.sender.read()
        self.sender.connection.use_arena(2**20)
        self.answers = Answers(self.engine, Peer("source"), self.payloads)

    def message(self, sequence: int) -> IncomingMessage:
        message = IncomingMessage(sequence, f"m-{sequence}", 100)
        message.place = sequence * 4096
        return message

    def handle(self, sequence: int, keep: Any = None) -> Any:
        """Have a message handled; return what the handler has kept."""
        message = self.message(sequence)
        payload = self.payloads.take(message)
        kept = keep(payload.view) if keep is not None else None
        payload.release()
        self.answers.message_handled(message, DONE)
        return kept

    def heard(self) -> list[Event]:
        """Have told what there is to tell; return what the sender heard."""
        self.answers.flush()
        events: list[Event] = []
        while self.sender.channel.has_bytes_waiting:
            self.sender.read()
            while (event := self.sender.next_event()) is not None:
                events.append(event)
        return events

    def close(self) -> None:
        self.payloads.close()
        self.arena.close()
        self.engine.close()
        self.sender.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_what_nobody_kept_is_only_answered(bench: Bench) -> None:
    for sequence in range(3):
        bench.handle(sequence, bytes)
    (only,) = bench.heard()
    assert isinstance(only, OutcomesReceived)
    assert not bench.answers.holds_payloads


def test_what_is_kept_is_said_before_the_answer_and_told_when_it_has_gone(bench: Bench) -> None:
    bench.handle(0)
    kept = bench.handle(1, np.asarray)
    held, answered = bench.heard()
    assert held == Held((1,))
    assert isinstance(answered, OutcomesReceived)
    assert bench.heard() == []
    assert bench.answers.holds_payloads
    del kept
    assert bench.heard() == [Released((1,))]
    assert bench.heard() == []
    assert not bench.answers.holds_payloads


def test_what_has_gone_before_it_was_said_to_be_held_is_told_afterwards(bench: Bench) -> None:
    kept = bench.handle(0, np.asarray)
    del kept
    held, _ = bench.heard()
    assert held == Held((0,))
    assert bench.heard() == [Released((0,))]


def test_of_many_that_are_kept_all_are_looked_at_in_turn(bench: Bench) -> None:
    kept = [bench.handle(sequence, np.asarray) for sequence in range(200)]
    assert bench.heard()[0] == Held(tuple(range(200)))
    del kept[1:]
    released: set[int] = set()
    while len(released) < 199:
        (event,) = bench.heard()
        assert isinstance(event, Released)
        released |= set(event.sequences)
    assert released == set(range(1, 200))
    assert bench.heard() == []


def test_what_is_kept_beyond_the_connection_stays_what_it_was() -> None:
    bench = Bench()
    bench.arena.write(4096, b"x" * 100)
    kept = bench.handle(1, np.asarray)
    bench.close()
    assert kept.tobytes() == b"x" * 100


# ── messages that are refused ────────────────────────────────────────────────────────────────────────────────────────


def test_a_payload_that_nobody_looked_at_counts_as_no_piece(bench: Bench) -> None:
    for sequence in range(3):
        bench.payloads.take(bench.message(sequence))
    bench.payloads.take(bench.message(3)).release()
    kept = bench.handle(4, lambda payload: np.ndarray((100,), "u1", buffer=payload))
    assert bench.heard()[0] == Held((4,))
    del kept
    assert bench.heard() == [Released((4,))]


class KeepingEngine:
    """One session with one slot, whose handler keeps an array that holds the mapping itself."""

    def __init__(self, bench: Bench) -> None:
        self.kept: list[Any] = []
        self.slots = Slots(1, 0.1, 2**20)
        handler = Handler(self._keep, None, None, False, "test")
        work = Work(handler, {}, deliver=lambda emissions, returned_at: None)
        store = PayloadStore(2**20, 2**20, "")
        workshop = Workshop(StreamDeclaration("cells", handler="keep.py"), work, self.slots, store)
        arena, engine = bench.payloads, bench.engine
        self.session = Session(workshop, engine, "source", is_backlog=False, on_closed=lambda _: None, arena=arena)
        self.session.opened()
        self.session.peer.credit.grant(10, 2**20)
        slot = self.slots.acquire(time.monotonic(), is_backlog=False)
        assert slot is not None
        self.slots.release(slot, 1, 1e-6)  # Handlers are quick: messages are run by the thread that received them.

    def _keep(self, message: Message) -> None:
        self.kept.append(np.ndarray((100,), "u1", buffer=message.payload))

    @contextmanager
    def clogged(self) -> Iterator[None]:
        """Have the only slot wait for what its handler emitted, for longer than others wait for it."""
        slot = self.slots.acquire(time.monotonic(), is_backlog=False)
        assert slot is not None
        self.slots._loop.emission_begun(time.monotonic() - 3600)
        yield
        self.slots._loop.emission_ended()
        self.slots.release(slot, 1, 1e-6)

    def close(self) -> None:
        self.kept.clear()
        self.session.closed(None)
        self.slots.close()


@pytest.fixture
def engine(bench: Bench) -> Iterator[KeepingEngine]:
    made = KeepingEngine(bench)
    yield made
    made.close()


def test_after_a_message_that_found_no_slot_every_view_is_noticed(bench: Bench, engine: KeepingEngine) -> None:
    with engine.clogged():
        engine.session.handle(MessagesReceived([bench.message(0)]))
    assert not engine.kept
    assert bench.payloads._arena._pieces == 0
    engine.session.handle(MessagesReceived([bench.message(1)]))
    engine.session.pause()
    assert Held((1,)) in bench.heard()


def test_a_connection_of_which_a_view_is_left_is_not_idle(bench: Bench, engine: KeepingEngine) -> None:
    roster = Roster()
    roster.add(engine.session, 0.0, may_idle_until=0.0, idle_for_s=10.0)
    engine.session.handle(MessagesReceived([bench.message(0)]))
    engine.session.pause()
    bench.heard()
    assert roster.idle_sessions(100.0) == []
    assert roster.idle_sessions(200.0) == []
    engine.kept.clear()
    assert Released((0,)) in bench.heard()
    assert roster.idle_sessions(205.0) == []
    assert roster.idle_sessions(210.0) == [engine.session]
