"""A connection that is being written while the connector closes."""

from __future__ import annotations

import socket
from collections import deque

from harmonicio.stream_connector.delivery import Delivery
from harmonicio.stream_connector.lanes import Lane, Parcel
from harmonicio.stream_connector.peers import Peer
from harmonicio.transport.channel import Channel
from harmonicio.transport.link import Link
from harmonicio.wire.events import Role


class Nobody:
    """A delivery's owner that is never asked."""

    def await_outcome(self, delivery: Delivery, timeout_s: float | None) -> None:
        raise AssertionError("Nobody waits here.")


class WithdrawnMeanwhile(deque[Parcel]):
    """An outbox that another thread empties between the look whether there is something and the taking."""

    def popleft(self) -> Parcel:
        self.clear()
        return super().popleft()


def test_messages_that_are_withdrawn_in_the_middle_of_a_flush_are_not_written_and_break_nothing() -> None:
    near, far = socket.socketpair()
    lane = Lane("engine", is_backlog=False)
    lane.outbox = WithdrawnMeanwhile([Parcel(Delivery(Nobody(), "0" * 32, 1), b"x")])
    peer = Peer(Link(Channel(near, "engine"), Role.CONNECTOR), lane)
    with far:
        peer.flush()
        peer.end()
        assert far.recv(100) == b""
    assert lane.begun == 0
