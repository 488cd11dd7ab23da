"""Every kind of channel keeps the contract."""

from __future__ import annotations

import socket

from harmonicio.core.lease import Address
from harmonicio.testing.channel_suite import ChannelSuite
from harmonicio.transport import memory, tcp
from harmonicio.transport.channel import Channel


class TestMemoryChannels(ChannelSuite):
    def pair(self, *, slow_after_s: float) -> tuple[Channel, Channel]:
        return memory.pair(slow_after_s=slow_after_s)


class TestTcpChannels(ChannelSuite):
    def pair(self, *, slow_after_s: float) -> tuple[Channel, Channel]:
        listener = tcp.listen("127.0.0.1", 0)
        try:
            return connected(listener, slow_after_s)
        finally:
            listener.close()


def connected(listener: socket.socket, slow_after_s: float) -> tuple[Channel, Channel]:
    host, port = listener.getsockname()[:2]
    ours = tcp.dial(Address(host, port), timeout_s=5, slow_after_s=slow_after_s)
    theirs = None
    while theirs is None:
        theirs = tcp.accept(listener, slow_after_s=slow_after_s)
    return ours, theirs
