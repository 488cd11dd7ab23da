"""Who sends waits a moment for a receiver that reads, and leaves the rest to the I/O thread if it does not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from benches.dispatch import Nobody
from harmonicio.stream_connector.delivery import Delivery
from harmonicio.stream_connector.lanes import Lane, Parcel
from harmonicio.stream_connector.peers import BATCH_BYTES, Peer, Written
from harmonicio.stream_connector.pump import INSIST_S, Pump
from harmonicio.transport.channel import Channel
from harmonicio.transport.link import Link
from harmonicio.wire.events import Role

SIZE = 8 * 1024**2


class Quiet:
    """An owner that nothing happens to."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"Nobody should hear of {name}.")


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


class Prompt(Channel):
    """To a receiver that reads whenever we wait for it."""

    def __init__(self, sock: socket.socket, theirs: socket.socket) -> None:
        super().__init__(sock, "engine")
        self._theirs = theirs
        self.received_bytes = 0

    def is_writable_within(self, seconds: float) -> bool:
        self.received_bytes += len(self._theirs.recv(1024**2))
        return super().is_writable_within(seconds)


def a_peer(channel: Channel) -> Peer:
    lane = Lane("engine", is_backlog=False)
    lane.credit.granted(10, 10 * SIZE)
    lane.take(Parcel(Delivery(Nobody(), "0" * 32, SIZE), bytes(SIZE)), 0.0)
    return Peer(Link(channel, Role.CONNECTOR), lane)


def test_all_leaves_at_once_while_the_receiver_reads(
    sockets: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmonicio.stream_connector.pump.INSIST_S", 60.0)
    channel = Prompt(*sockets)
    peer = a_peer(channel)
    Pump(Quiet(), threading.Lock(), "test").flush(peer, insists=True)  # type: ignore[arg-type]
    assert not peer.has_unwritten and not peer.is_blocked
    assert channel.received_bytes > SIZE // 2


@pytest.mark.parametrize("insists", [True, False])
def test_who_does_not_read_holds_nobody_up(sockets: tuple[socket.socket, socket.socket], insists: bool) -> None:
    peer = a_peer(Channel(sockets[0], "engine"))
    pump = Pump(Quiet(), threading.Lock(), "test")  # type: ignore[arg-type]
    begun_at = time.monotonic()
    pump.flush(peer, insists=insists)
    assert time.monotonic() - begun_at < INSIST_S + 5
    assert peer.is_blocked and peer.has_unwritten


def test_a_full_kernel_is_told_to_one_thread_also_when_another_comes_right_behind(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    peer = a_peer(Channel(sockets[0], "engine"))
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


def test_two_threads_may_wait_for_the_kernel(sockets: tuple[socket.socket, socket.socket]) -> None:
    channel = Channel(sockets[0], "engine")
    while channel.try_send([memoryview(bytes(1024**2))]):
        pass
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(channel.is_writable_within, 0.2) for _ in range(2)]
        assert [each.result(20) for each in waits] == [False, False]


def test_one_call_gathers_no_more_than_a_batch_of_long_sections(sockets: tuple[socket.socket, socket.socket]) -> None:
    lane = Lane("engine", is_backlog=False)
    lane.credit.granted(1000, 1000)
    peer = Peer(Link(Channel(sockets[0], "engine"), Role.CONNECTOR), lane)
    for number in range(100):
        lane.take(Parcel(Delivery(Nobody(), f"{number:032x}", 1), b"x", bytes(60_000)), 0.0)
    peer.flush()
    assert lane.outbox
    assert sum(map(len, peer._pending)) < BATCH_BYTES + 60_100
