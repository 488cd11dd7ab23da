"""Threads that write one connection while what is next cannot be read: who takes it back has the connection alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import cast

import pytest

from benches.dispatch import Nobody
from harmonicio.core.errors import InvalidInput
from harmonicio.stream_connector.delivery import Delivery
from harmonicio.stream_connector.dispatch import Dispatch
from harmonicio.stream_connector.exchange import Exchange
from harmonicio.stream_connector.lanes import Lane, Parcel
from harmonicio.stream_connector.peers import Peer, Written
from harmonicio.stream_connector.settlement import Settlement
from harmonicio.stream_connector.sources import PayloadAway, PiecewisePayload
from harmonicio.testing.waiting import wait_until
from harmonicio.transport.link import Link

WITHIN_S = 10.0


class Share(PiecewisePayload):
    """A payload on a share that is away for the first reads, and then takes a moment to answer."""

    def __init__(self, content: bytes, *, away: int = 0, is_slow: bool = False) -> None:
        self.content = content
        self.size_bytes = len(content)
        self.away = away
        self.is_reading = threading.Event()
        self.may_go_on = threading.Event()
        if not is_slow:
            self.may_go_on.set()

    def reader(self) -> Share:
        if self.away:
            self.away -= 1
            raise PayloadAway("The share is away.")
        self.is_reading.set()
        assert self.may_go_on.wait(WITHIN_S)
        return self

    def read_into(self, buffer: memoryview, offset: int) -> int:
        piece = self.content[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)


class Gate:
    """The lock of a connection; lets a thread stand still between its look at the connection and the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.arrived, self.is_open = threading.Event(), threading.Event()
        self.before_release: Callable[[], object] = lambda: None

    def acquire(self, blocking: bool = True) -> bool:
        if self._is_late:
            self.arrived.set()
            assert self.is_open.wait(WITHIN_S)
        return self._lock.acquire(blocking=blocking)

    def release(self) -> None:
        if self._is_late:
            before_release, self.before_release = self.before_release, lambda: None
            before_release()
        self._lock.release()

    @property
    def _is_late(self) -> bool:
        return threading.current_thread().name == "late"


class Channel:
    """Takes whatever is written."""

    def __init__(self) -> None:
        self.sent = b""

    def try_send(self, buffers: Sequence[memoryview]) -> int:
        data = b"".join(buffers)
        self.sent += data
        return len(data)


class Wire:
    """What a Peer needs of a link."""

    def __init__(self) -> None:
        self.channel = Channel()


class Crossing:
    """One connection of an exchange, with a second thread that is about to write, too."""

    def __init__(self, *payloads: PiecewisePayload) -> None:
        self.dispatch = Dispatch(10**9)
        self.exchange = Exchange(self.dispatch, "test", Settlement(None, keeps_outcomes=True))
        self.lane = Lane("engine", is_backlog=False)
        self.lane.credit.granted(10, 10**9)
        self.wire = Wire()
        self.peer = Peer(cast(Link, self.wire), self.lane)
        self.gate = Gate()
        self.peer._writing = cast(threading.Lock, self.gate)
        self.exchange._peers[self.lane] = self.peer
        self.dispatch.lane_opened(self.lane, 0.0)
        for number, payload in enumerate(payloads):
            self.offer(f"spooled-{number}", payload, is_spooled=True)
        self.late = threading.Thread(target=self._be_late, name="late")
        self.late_result: Written | None = None
        self.late.start()
        assert self.gate.arrived.wait(WITHIN_S)

    def _be_late(self) -> None:
        self.late_result = self.peer.flush()

    def offer(
        self, name: str, payload: PiecewisePayload | bytes, *, priority: int = 0, is_spooled: bool = False
    ) -> None:
        size = payload.size_bytes if isinstance(payload, Share) else len(cast(bytes, payload))
        parcel = Parcel(Delivery(Nobody(), name, size), payload, priority=priority)
        parcel.entry = object() if is_spooled else None
        with self.exchange.lock:
            now = time.monotonic()
            self.dispatch.offer(parcel, now)
            self.dispatch.assign(now)

    @property
    def in_flight(self) -> list[str]:
        return [parcel.delivery.message_id for parcel in self.lane.in_flight.values()]


def test_who_comes_late_to_what_cannot_be_read_does_not_read_it_while_it_is_taken_back() -> None:
    away = Share(b"AWAYAWAY", away=1, is_slow=True)
    crossing = Crossing(away)
    assert crossing.peer.flush() is Written.STUCK
    crossing.gate.is_open.set()
    wait_until(lambda: away.is_reading.is_set() or not crossing.late.is_alive())
    crossing.exchange.peer_stuck(crossing.peer)
    crossing.offer("other", b"OTHERONE")
    away.may_go_on.set()
    crossing.late.join()
    crossing.peer.flush()
    assert crossing.in_flight == ["other"], "the other one waits until it can be read"
    assert b"OTHERONE" in crossing.wire.channel.sent
    assert b"AWAY" not in crossing.wire.channel.sent


def test_only_one_is_told_to_take_back_what_cannot_be_read_and_nothing_is_sent_twice() -> None:
    slow = Share(b"SLOWSLOW", is_slow=True)
    crossing = Crossing(Share(b"AWAYAWAY", away=2), slow)
    assert crossing.peer.flush() is Written.STUCK
    crossing.gate.is_open.set()
    crossing.late.join()
    crossing.exchange.peer_stuck(crossing.peer)
    third = threading.Thread(target=crossing.peer.flush)
    third.start()
    assert slow.is_reading.wait(WITHIN_S)
    crossing.offer("urgent", b"URGENT!!", priority=1)
    if crossing.late_result is Written.STUCK:
        crossing.exchange.peer_stuck(crossing.peer)
    slow.may_go_on.set()
    third.join()
    crossing.peer.flush()
    sent = crossing.wire.channel.sent
    assert (sent.count(b"SLOWSLOW"), sent.count(b"URGENT!!")) == (1, 1)
    assert crossing.in_flight == ["spooled-1", "urgent"]


def test_who_comes_late_writes_what_nobody_could_write_because_of_that() -> None:
    crossing = Crossing(Share(b"AWAYAWAY", away=1), Share(b"BEHIND!!"))

    def go_on_meanwhile() -> None:
        crossing.exchange.peer_stuck(crossing.peer)
        assert crossing.peer.flush() is Written.ALL, "somebody else has the connection"

    crossing.gate.before_release = go_on_meanwhile
    assert crossing.peer.flush() is Written.STUCK
    crossing.gate.is_open.set()
    crossing.late.join()
    assert b"BEHIND!!" in crossing.wire.channel.sent


def writer(*payloads: Share) -> tuple[Peer, Wire, list[Parcel]]:
    """Return a connection that is to write these."""
    lane, wire = Lane("engine", is_backlog=False), Wire()
    parcels = [Parcel(Delivery(Nobody(), f"m-{n}", each.size_bytes), each) for n, each in enumerate(payloads)]
    for parcel in parcels:
        parcel.entry = object()
    lane.outbox.extend(parcels)
    return Peer(cast(Link, wire), lane), wire, parcels


@pytest.mark.parametrize("size", [8, 300_000])
def test_what_has_been_read_whole_starts_anew_when_it_cannot_be_read_again(size: int) -> None:
    peer, _, (parcel,) = writer(Share(bytes(size)))
    parcel.absences = 7
    assert peer.flush() is Written.ALL
    assert parcel.is_readable
    assert parcel.absences == 0


def test_of_what_is_not_written_first_nothing_is_said_before_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    changing = Share(b"CHANGED!")
    peer, wire, parcels = writer(Share(b"FIRSTONE"), changing)
    errors = [InvalidInput("It has changed.")]
    monkeypatch.setattr(changing, "read_into", lambda *_: _raise(errors.pop()) if errors else 8)
    assert peer.flush() is Written.ALL
    assert not errors
    assert not parcels[1].trouble, "it was read in the end"
    assert b"FIRSTONE" in wire.channel.sent


@pytest.mark.parametrize("size", [8, 300_000])
def test_what_cannot_be_read_from_its_beginning_has_not_been_begun(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    changed = Share(bytes(size))
    peer, wire, (parcel,) = writer(changed)
    monkeypatch.setattr(changed, "read_into", lambda *_: _raise(InvalidInput("It has changed.")))
    assert peer.flush() is Written.STUCK
    assert parcel.trouble == "It has changed."
    assert (wire.channel.sent, peer.lane.begun) == (b"", 0), "the connection serves others"


def _raise(error: Exception) -> int:
    raise error


def test_what_is_withdrawn_while_it_is_opened_is_not_written() -> None:
    slow = Share(bytes(300_000), is_slow=True)
    peer, wire, _ = writer(slow)
    thread = threading.Thread(target=peer.flush)
    thread.start()
    assert slow.is_reading.wait(WITHIN_S)
    peer.lane.outbox.clear()
    slow.may_go_on.set()
    thread.join()
    assert not peer.has_unwritten
    assert wire.channel.sent == b""
