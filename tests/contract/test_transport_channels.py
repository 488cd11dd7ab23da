"""Every kind of channel keeps the contract."""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme

from benches.certificates import contexts_of
from harmonicio.core.errors import RemoteProtocolError
from harmonicio.core.lease import Address
from harmonicio.testing.arrivals import one_by_one
from harmonicio.testing.channel_suite import ChannelSuite, both_closed, greeted, next_event
from harmonicio.transport import memory, tcp, unix
from harmonicio.transport.arena import Arena, ArenaView
from harmonicio.transport.channel import Channel
from harmonicio.transport.link import Link
from harmonicio.wire.connection import message_prefix
from harmonicio.wire.events import Held, Hello, IncomingMessage, Released, Role
from harmonicio.wire.frames import PLACE, Flag
from harmonicio.wire.sections import held_frame, released_frame


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


class TestTlsChannels(ChannelSuite):
    authority = trustme.CA()
    contexts = contexts_of(authority, "127.0.0.1")

    def pair(self, *, slow_after_s: float) -> tuple[Channel, Channel]:
        listener = tcp.listen("127.0.0.1", 0)
        try:
            return connected(listener, slow_after_s, *self.contexts)
        finally:
            listener.close()


class TestUnixChannels(ChannelSuite):
    def pair(self, *, slow_after_s: float) -> tuple[Channel, Channel]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.sock"
            listener = unix.listen(path)
            try:
                ours = unix.dial(str(path), slow_after_s=slow_after_s)
                theirs = None
                while theirs is None:
                    theirs = unix.accept(listener, slow_after_s=slow_after_s)
                return ours, theirs
            finally:
                listener.close()


class TestLinksWithAnArena(TestUnixChannels):
    """The same where both ends have mapped shared memory: what is not placed there travels as ever."""

    @pytest.fixture
    def links(self) -> Iterator[tuple[Link, Link]]:
        arena = Arena(2**20)
        with both_closed(self.pair(slow_after_s=5.0)) as (ours, theirs):
            assert isinstance(ours, unix.UnixChannel)
            connector, engine = Link(ours, Role.CONNECTOR), Link(theirs)
            hello = Hello(Role.CONNECTOR, stream="images", arena=arena.size_bytes)
            ours.send_with_descriptor(connector.connection.hello(hello), arena.descriptor)
            assert next_event(engine) == hello
            descriptor = theirs.take_descriptor()
            assert descriptor is not None
            view = ArenaView(descriptor, arena.size_bytes)
            engine.connection.use_arena(view.size_bytes)
            engine.send(engine.connection.hello(Hello(Role.ENGINE, arena=view.size_bytes)))
            answer = next_event(connector)
            assert isinstance(answer, Hello) and answer.arena == arena.size_bytes
            connector.connection.use_arena(arena.size_bytes)
            yield connector, engine
            view.let_go()
        arena.close()

    def test_messages_in_the_arena_arrive_in_order_among_others(self, links: tuple[Link, Link]) -> None:
        connector, engine = links
        for at in range(20):
            placed = message_prefix(f"{2 * at:032x}", 5000, flags=Flag.ARENA) + PLACE.pack(4096 * at)
            connector.send(placed, message_prefix(f"{2 * at + 1:032x}", 2000), bytes(2000))
        found: list[IncomingMessage] = []
        while len(found) < 40:
            found += one_by_one(next_event(engine))
        assert [message.id for message in found] == [f"{at:032x}" for at in range(40)]
        assert [message.place for message in found[::2]] == [4096 * at for at in range(20)]
        assert {message.place for message in found[1::2]} == {-1}

    @pytest.mark.parametrize(
        ("place", "size"), [(2**20, 1), (2**20 - 4096, 4097), (0, 2**20 + 1), (100, 10), (2**64 - 4096, 10), (0, 0)]
    )
    def test_a_place_outside_the_arena_breaks_the_protocol(
        self, links: tuple[Link, Link], place: int, size: int
    ) -> None:
        connector, engine = links
        connector.send(message_prefix("0" * 32, size, flags=Flag.ARENA) + PLACE.pack(place))
        with pytest.raises(RemoteProtocolError, match="shared memory"):
            next_event(engine)

    def test_a_checksum_in_the_arena_breaks_the_protocol(self, links: tuple[Link, Link]) -> None:
        connector, engine = links
        flags = Flag.ARENA | Flag.CHECKSUM_CRC32
        connector.send(message_prefix("0" * 32, 10, flags=flags) + PLACE.pack(0) + bytes(8))
        with pytest.raises(RemoteProtocolError, match="flags 0x28"):
            next_event(engine)

    def test_what_is_held_and_released_is_heard_where_messages_are_sent(self, links: tuple[Link, Link]) -> None:
        connector, engine = links
        engine.send(held_frame([3, 4]), released_frame([3]))
        assert [next_event(connector), next_event(connector)] == [Held((3, 4)), Released((3,))]
        connector.send(held_frame([3]))
        with pytest.raises(RemoteProtocolError, match="HELD"):
            next_event(engine)


def test_what_is_held_breaks_the_protocol_where_there_is_no_arena() -> None:
    with both_closed(memory.pair()) as (ours, theirs):
        connector, engine = greeted(Link(ours, Role.CONNECTOR), Link(theirs))
        engine.send(held_frame([3]))
        with pytest.raises(RemoteProtocolError, match="HELD"):
            next_event(connector)
        connector.send(message_prefix("0" * 32, 10, flags=Flag.ARENA) + PLACE.pack(0))
        with pytest.raises(RemoteProtocolError, match="flags 0x20"):
            next_event(engine)


def connected(
    listener: socket.socket,
    slow_after_s: float,
    dialling: ssl.SSLContext | None = None,
    listening: ssl.SSLContext | None = None,
) -> tuple[Channel, Channel]:
    address = Address(*listener.getsockname()[:2], speaks_tls=listening is not None)
    with ThreadPoolExecutor(1) as aside:
        dialled = aside.submit(tcp.dial, address, timeout_s=5, slow_after_s=slow_after_s, tls=dialling)
        theirs = None
        while theirs is None:
            theirs = tcp.accept(listener, slow_after_s=slow_after_s, tls=listening)
        is_dialled = False
        while (
            not is_dialled
        ):  # A listener shakes hands while it receives; the dialler's last word comes when it is done.
            is_dialled = dialled.done()
            assert theirs.receive_into(memoryview(bytearray(1))) is None
    return dialled.result(), theirs
