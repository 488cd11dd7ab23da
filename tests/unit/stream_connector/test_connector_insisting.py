"""Who sends serves the sockets while it does so, and leaves them to the I/O thread when it stops or cannot go on."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from benches.dispatch import Nobody
from harmonicio.core.errors import HarmonicIOError
from harmonicio.stream_connector.delivery import Delivery
from harmonicio.stream_connector.lanes import Lane, Parcel
from harmonicio.stream_connector.peers import BATCH_BYTES, Peer, Written
from harmonicio.stream_connector.pump import INSIST_S, Pump
from harmonicio.transport.channel import Channel
from harmonicio.transport.link import Link
from harmonicio.wire.events import Event, Hello, Role
from harmonicio.wire.frames import VERSION
from harmonicio.wire.sections import credit_frame, hello_frame

SIZE = 8 * 1024**2


class Listener:
    """An owner that notes what is told, and on which threads."""

    def __init__(self) -> None:
        self.heard: deque[tuple[Event, threading.Thread]] = deque()
        self.due_at = 0.0
        self.was_told_at = 0.0

    def peer_events(self, peer: Peer, events: list[Event]) -> None:
        self.heard.extend((event, threading.current_thread()) for event in events)

    def peer_ended(self, peer: Peer, error: HarmonicIOError) -> None:
        assert "closed" in error.text

    def peer_stuck(self, peer: Peer) -> None:
        raise AssertionError("All of it can be read.")

    def next_due_s(self) -> float | None:
        left_s = self.due_at - time.monotonic()
        return left_s if left_s > 0 else None

    def time_passed(self) -> None:
        now = time.monotonic()
        if not self.was_told_at and now >= self.due_at > 0:
            self.was_told_at = now


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def pump(listener: Listener) -> Iterator[Pump]:
    pump = Pump(listener, threading.Lock(), "test")
    pump.start()
    yield pump
    pump.close()


def a_peer(sock: socket.socket) -> Peer:
    lane = Lane("engine", is_backlog=False)
    lane.credit.granted(10, 10 * SIZE)
    return Peer(Link(Channel(sock, "engine"), Role.CONNECTOR), lane)


def give(peer: Peer) -> Peer:
    peer.lane.take(Parcel(Delivery(Nobody(), "0" * 32, SIZE), bytes(SIZE)), 0.0)
    return peer


def flushed(sock: socket.socket, pump: Pump, *, insists: bool) -> Peer:
    """Return a peer of which the pump has just written what the kernel took."""
    peer = a_peer(sock)
    pump.add(peer)
    pump.flush(give(peer), insists=insists)
    return peer


def test_all_has_left_when_the_receiver_reads(
    sockets: tuple[socket.socket, socket.socket], pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmonicio.stream_connector.pump.INSIST_S", 60.0)
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(lambda: sum(iter(lambda: len(sockets[1].recv(1024**2)), 0)))
        peer = flushed(sockets[0], pump, insists=True)
        assert not peer.has_unwritten and not peer.is_blocked
        pump.close()
        assert received.result(20) > SIZE


@pytest.mark.parametrize("insists", [True, False])
def test_who_does_not_read_holds_nobody_up(
    sockets: tuple[socket.socket, socket.socket], pump: Pump, insists: bool
) -> None:
    begun_at = time.monotonic()
    peer = flushed(sockets[0], pump, insists=insists)
    assert time.monotonic() - begun_at < INSIST_S + 5
    assert peer.is_blocked and peer.has_unwritten


def test_what_the_kernel_takes_later_is_written_as_soon_as_it_does(
    sockets: tuple[socket.socket, socket.socket], pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmonicio.stream_connector.pump.PARKED_S", 60.0)
    assert flushed(sockets[0], pump, insists=True).is_blocked
    sockets[1].settimeout(20)
    received = 0
    while received < SIZE:
        received += len(sockets[1].recv(1024**2))


def test_what_time_makes_due_is_seen_in_time_while_a_source_sends(pump: Pump, listener: Listener) -> None:
    late_s = []
    for number in range(9):
        listener.due_at, listener.was_told_at = time.monotonic() + 0.02 + 0.003 * number, 0.0
        pump.wake()
        while not listener.was_told_at:
            assert time.monotonic() < listener.due_at + 20
            pump.sent(time.monotonic())
            time.sleep(0.0003)  # What a source does between two messages.
        late_s.append(listener.was_told_at - listener.due_at)
    assert sorted(late_s)[4] < 0.04


def test_a_source_that_sends_all_the_time_reads_the_answers_itself_and_the_io_thread_when_it_stops(
    sockets: tuple[socket.socket, socket.socket], pump: Pump, listener: Listener
) -> None:
    peer = a_peer(sockets[0])
    peer.link.connection.hello(Hello(Role.CONNECTOR))
    sockets[1].sendall(hello_frame(Hello(Role.ENGINE, versions=(VERSION,))))
    while not isinstance(peer.link.next_event(), Hello):
        peer.link.read()
    pump.add(peer)
    deadline, total = time.monotonic() + 20, 0

    def reader_of_the_next() -> threading.Thread:
        while not listener.heard:
            assert time.monotonic() < deadline
            if is_sending:
                pump.sent(time.monotonic())
        return listener.heard.popleft()[1]

    is_sending, readers = True, set()
    while threading.main_thread() not in readers:
        total += 1
        sockets[1].sendall(credit_frame(total, total))
        readers.add(reader_of_the_next())
    is_sending = False
    sockets[1].sendall(credit_frame(total + 1, total + 1))
    assert reader_of_the_next() is not threading.main_thread()


def test_a_full_kernel_is_told_to_one_thread_also_when_another_comes_right_behind(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    peer = give(a_peer(sockets[0]))
    heard: list[Written] = []

    class LetsIn:
        """A lock that lets another thread in before whoever gives it back can do anything else."""

        def __init__(self) -> None:
            self._lock = threading.Lock()
            self._has_let_in = False

        def acquire(self, blocking: bool = True) -> bool:
            return self._lock.acquire(blocking)

        def release(self) -> None:
            self._lock.release()
            if not self._has_let_in:
                self._has_let_in = True
                second = threading.Thread(target=lambda: heard.append(peer.flush()))
                second.start()
                second.join(20)

    peer._writing = LetsIn()  # type: ignore[assignment]
    assert peer.flush() is Written.FULL
    assert heard == [Written.ALL]


def test_one_call_gathers_no_more_than_a_batch_of_long_sections(sockets: tuple[socket.socket, socket.socket]) -> None:
    lane = Lane("engine", is_backlog=False)
    lane.credit.granted(1000, 1000)
    peer = Peer(Link(Channel(sockets[0], "engine"), Role.CONNECTOR), lane)
    for number in range(100):
        lane.take(Parcel(Delivery(Nobody(), f"{number:032x}", 1), b"x", bytes(60_000)), 0.0)
    peer.flush()
    assert lane.outbox
    assert sum(map(len, peer._pending)) < BATCH_BYTES + 60_100
