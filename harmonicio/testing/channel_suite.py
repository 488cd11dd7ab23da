"""What every kind of channel must do, and a link on it: inherit :class:`ChannelSuite` and give the two ends.

class TestMyChannels(ChannelSuite):
    def pair(self) -> tuple[Channel, Channel]: ...
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from harmonicio.core.errors import (
    BacklogFull,
    Conflict,
    ConnectionEnded,
    EngineUnavailable,
    HarmonicIOError,
    InvalidInput,
    NotAllowed,
    NotFound,
    RemoteProtocolError,
    StorageError,
    Unavailable,
)
from harmonicio.testing.arrivals import one_by_one
from harmonicio.transport.busy_poll import BusyPoll
from harmonicio.transport.channel import PROGRESS_BYTES, Channel
from harmonicio.transport.link import Link
from harmonicio.wire.connection import Part, message_prefix
from harmonicio.wire.events import Event, Goodbye, Hello, IncomingMessage, MessageBegun, Role

SEVERAL_SECONDS = 20.0


class ChannelSuite(ABC):
    """The contract of :class:`~harmonicio.transport.channel.Channel`."""

    @abstractmethod
    def pair(self, *, slow_after_s: float) -> tuple[Channel, Channel]:
        """Return the two ends of one stream; the suite closes them."""

    @pytest.fixture
    def ends(self) -> Iterator[tuple[Channel, Channel]]:
        with both_closed(self.pair(slow_after_s=0.3)) as ends:
            yield ends

    @pytest.fixture
    def links(self) -> Iterator[tuple[Link, Link]]:
        """A connector and an engine that have greeted each other."""
        with both_closed(self.pair(slow_after_s=5.0)) as (ours, theirs):
            yield greeted(Link(ours, Role.CONNECTOR), Link(theirs))

    @pytest.fixture
    def aside(self) -> Iterator[Callable[..., Future[Any]]]:
        """Run something in a thread of its own."""
        with ThreadPoolExecutor(4) as pool:
            yield pool.submit

    # ── bytes ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def test_bytes_arrive_in_order(self, ends: tuple[Channel, Channel]) -> None:
        ours, theirs = ends
        ours.send_all([b"one ", memoryview(b"two "), bytearray(b"three"), b""])
        buffer = bytearray(13)
        assert theirs.receive_exactly(memoryview(buffer)) == 13
        assert buffer == b"one two three"

    def test_more_buffers_than_one_call_takes_arrive_whole(
        self, ends: tuple[Channel, Channel], aside: Callable[..., Future[Any]]
    ) -> None:
        ours, theirs = ends
        pieces = [bytes([at % 251]) * (at % 100) for at in range(5000)]
        sending = aside(ours.send_all, pieces)
        expected = b"".join(pieces)
        buffer = bytearray(len(expected))
        assert theirs.receive_exactly(memoryview(buffer)) == len(expected)
        sending.result(SEVERAL_SECONDS)
        assert buffer == expected

    def test_a_receive_without_bytes_returns_soon(self, ends: tuple[Channel, Channel]) -> None:
        began = time.monotonic()
        assert ends[0].receive_into(memoryview(bytearray(10))) is None
        assert time.monotonic() - began < 1.0
        assert ends[0].try_receive(memoryview(bytearray(10))) is None

    def test_what_the_kernel_does_not_take_at_once_is_left(
        self, ends: tuple[Channel, Channel], aside: Callable[..., Future[Any]]
    ) -> None:
        ours, theirs = ends
        payload = memoryview(random.Random(5).randbytes(32 * 1024**2))
        count = first = ours.try_send([payload[:1], payload[1:]])
        while more := ours.try_send([payload[count : count + 70_000], payload[count + 70_000 :]]):
            count += more
        assert 0 < first <= count < len(payload)
        arrived = memoryview(bytearray(len(payload)))
        assert theirs.receive_exactly(arrived[:count]) == count, "what was counted comes without another call"
        sending = aside(ours.send_all, [payload[count:]])
        assert theirs.receive_exactly(arrived[count:]) == len(payload) - count
        sending.result(SEVERAL_SECONDS)
        assert arrived == payload
        assert theirs.try_receive(arrived[:1]) is None

    def test_the_end_of_one_direction_leaves_the_other_open(self, ends: tuple[Channel, Channel]) -> None:
        ours, theirs = ends
        ours.send_all([b"last words"])
        ours.finish_sending()
        buffer = memoryview(bytearray(20))
        assert theirs.receive_exactly(buffer) == len(b"last words")
        assert theirs.receive_into(buffer) == 0
        theirs.send_all([b"an answer"])
        assert ours.receive_exactly(buffer[:9]) == 9

    def test_a_peer_that_closes_is_seen_by_the_reader_and_the_writer(self, ends: tuple[Channel, Channel]) -> None:
        ours, theirs = ends
        theirs.close()
        assert ours.receive_into(memoryview(bytearray(1))) == 0
        with pytest.raises(ConnectionEnded, match="broke"):
            for _ in range(100):
                ours.send_all([bytes(100_000)])

    def test_shutdown_from_another_thread_ends_a_wait_for_bytes(
        self, ends: tuple[Channel, Channel], aside: Callable[..., Future[Any]]
    ) -> None:
        waiting = aside(ends[0].receive_exactly, memoryview(bytearray(10)))
        ends[0].shutdown()
        assert waiting.result(SEVERAL_SECONDS) == 0

    def test_shutdown_and_close_may_be_repeated(self, ends: tuple[Channel, Channel]) -> None:
        ends[0].shutdown()
        ends[0].close()
        ends[0].shutdown()
        ends[0].close()
        assert ends[0].is_closed
        with pytest.raises(ConnectionEnded):
            ends[0].send_all([b"x"])

    def test_a_peer_that_stops_in_the_middle_is_cut(self, ends: tuple[Channel, Channel]) -> None:
        ends[1].send_all([b"half"])
        with pytest.raises(ConnectionEnded, match=r"moved 4 bytes .* and was cut"):
            ends[0].receive_exactly(memoryview(bytearray(8)))

    def test_a_peer_that_does_not_read_is_cut(self, ends: tuple[Channel, Channel]) -> None:
        with pytest.raises(ConnectionEnded, match="was cut"):
            ends[0].send_all([bytes(64 * 1024**2)])

    def test_a_slow_peer_that_moves_on_is_not_cut(
        self, ends: tuple[Channel, Channel], aside: Callable[..., Future[Any]]
    ) -> None:
        def send_slowly() -> None:
            for _ in range(20):
                ends[1].send_all([bytes(10_000)])
                time.sleep(0.04)

        sending = aside(send_slowly)
        assert ends[0].receive_exactly(memoryview(bytearray(200_000))) == 200_000
        sending.result(SEVERAL_SECONDS)

    @pytest.mark.parametrize("pause_s", [0.0, 0.01])
    def test_who_polls_gets_all_bytes_and_sees_the_end(
        self, ends: tuple[Channel, Channel], aside: Callable[..., Future[Any]], pause_s: float
    ) -> None:
        def send() -> None:
            for piece in range(8):
                ends[1].send_all([bytes([piece]) * 50_000])
                time.sleep(pause_s)
            ends[1].finish_sending()

        sending, arrived = aside(send), bytearray(400_001)
        assert ends[0].receive_exactly(memoryview(arrived), polling=BusyPoll()) == 400_000
        sending.result(SEVERAL_SECONDS)
        assert arrived[:-1] == b"".join(bytes([piece]) * 50_000 for piece in range(8))

    def test_who_reads_while_bytes_arrive_hears_of_them_in_small_steps(
        self, ends: tuple[Channel, Channel], aside: Callable[..., Future[Any]]
    ) -> None:
        size, heard = 3 * PROGRESS_BYTES + 5, [0]
        sending = aside(ends[1].send_all, [bytes(size)])
        assert ends[0].receive_exactly(memoryview(bytearray(size)), on_progress=heard.append) == size
        sending.result(SEVERAL_SECONDS)
        assert heard[-1] == size
        assert all(0 < after - before <= PROGRESS_BYTES for before, after in itertools.pairwise(heard))

    # ── links ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def test_a_large_payload_arrives_whole(self, links: tuple[Link, Link], aside: Callable[..., Future[Any]]) -> None:
        connector, engine = links
        payload = bytes(range(256)) * (100 * 1024**2 // 256)
        sending = aside(connector.send, message_prefix("large", len(payload)), payload)
        begun = next_event(engine)
        assert isinstance(begun, MessageBegun)
        buffer = bytearray(begun.message.size_bytes)
        engine.receive_payload(memoryview(buffer))
        received = next_event(engine)
        sending.result(SEVERAL_SECONDS)
        assert message_of(received).size_bytes == len(payload)
        assert hashlib.sha256(buffer).digest() == hashlib.sha256(payload).digest()
        assert engine.received_bytes > len(payload)

    @pytest.mark.parametrize("is_heard_of", [False, True])
    def test_a_payload_that_trickles_in_is_cut_also_when_each_step_is_heard_of(
        self, is_heard_of: bool, aside: Callable[..., Future[Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("harmonicio.transport.channel.PROGRESS_BYTES", 1000)
        heard: list[int] = []
        with both_closed(self.pair(slow_after_s=0.3)) as ends:
            connector, engine = greeted(Link(ends[0], Role.CONNECTOR), Link(ends[1]))
            connector.send(message_prefix("slow", 200_000))
            assert isinstance(next_event(engine), MessageBegun)
            receiving = aside(
                engine.receive_payload,
                memoryview(bytearray(200_000)),
                on_progress=heard.append if is_heard_of else None,
            )
            while not receiving.done() and connector.channel.try_send([memoryview(bytes(500))]):
                time.sleep(0.02)
            with pytest.raises(ConnectionEnded, match="was cut"):
                receiving.result(SEVERAL_SECONDS)
        assert heard == sorted(set(heard))
        assert bool(heard) == is_heard_of

    def test_many_small_messages_arrive_in_order(
        self, links: tuple[Link, Link], aside: Callable[..., Future[Any]]
    ) -> None:
        connector, engine = links

        def send() -> None:
            for at in range(0, 5000, 50):
                connector.send(*[message_prefix(f"{at + more:032x}", 10) + b"0123456789" for more in range(50)])

        sending = aside(send)
        ids = [message.id for message in next_messages(engine, 5000)]
        sending.result(SEVERAL_SECONDS)
        assert ids == [f"{at:032x}" for at in range(5000)]

    def test_messages_of_several_threads_are_not_mixed(
        self, links: tuple[Link, Link], aside: Callable[..., Future[Any]]
    ) -> None:
        connector, engine = links

        def send(mark: int) -> None:
            for _ in range(100):
                connector.send(message_prefix("id", 30_000), bytes([mark]) * 30_000)

        sending = [aside(send, mark) for mark in range(3)]
        for message in next_messages(engine, 300):
            assert message.payload is not None and len(message.payload) == 30_000
            assert len(set(message.payload)) == 1
        for each in sending:
            each.result(SEVERAL_SECONDS)

    def test_a_peer_that_closes_within_a_payload_ends_the_connection(self, links: tuple[Link, Link]) -> None:
        connector, engine = links
        connector.send(message_prefix("broken", 200_000), bytes(100_000))
        connector.close()
        assert isinstance(next_event(engine), MessageBegun)
        with pytest.raises(ConnectionEnded, match="middle of a frame"):
            engine.receive_payload(memoryview(bytearray(200_000)))
        assert engine.next_event() is None

    def test_the_end_of_the_stream_is_not_taken_for_silence(self, links: tuple[Link, Link]) -> None:
        connector, engine = links
        connector.close()
        for _ in range(2):
            with pytest.raises(ConnectionEnded, match="closed the connection"):
                engine.read()

    def test_goodbye_reaches_a_peer_that_is_still_sending(
        self, links: tuple[Link, Link], aside: Callable[..., Future[Any]]
    ) -> None:
        connector, engine = links
        stop = threading.Event()

        def send() -> None:
            with contextlib.suppress(ConnectionEnded):
                while not stop.is_set():
                    connector.send(message_prefix("id", 50_000), bytes(50_000))

        def leave() -> None:
            engine.say_goodbye("draining", "Enough.", "Go elsewhere.")
            engine.close()

        sending, leaving = aside(send), aside(leave)
        assert next_event(connector) == Goodbye("draining", "Enough.", "Go elsewhere.")
        stop.set()
        leaving.result(SEVERAL_SECONDS)
        sending.result(SEVERAL_SECONDS)

    def test_nothing_is_sent_after_a_write_that_did_not_finish(self, links: tuple[Link, Link]) -> None:
        connector, engine = links
        with pytest.raises(TypeError):
            connector.send(message_prefix("id", 100_000), 17)  # type: ignore[arg-type]
        with pytest.raises(ConnectionEnded):
            connector.send(b"what would be taken for the payload")
        with pytest.raises(ConnectionEnded):
            next_event(engine)

    def test_close_wakes_a_thread_that_is_sending(
        self, links: tuple[Link, Link], aside: Callable[..., Future[Any]]
    ) -> None:
        connector, _ = links
        sending = aside(connector.send, bytes(64 * 1024**2))
        time.sleep(0.05)  # So that it is likely to be in the middle; the assertion holds at any time.
        connector.close()
        with pytest.raises(ConnectionEnded):
            sending.result(SEVERAL_SECONDS)

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("not_allowed", NotAllowed),
            ("not_found", NotFound),
            ("invalid_input", InvalidInput),
            ("conflict", Conflict),
            ("unavailable", Unavailable),
            ("engine_unavailable", EngineUnavailable),
            ("backlog_full", BacklogFull),
            ("storage", StorageError),
            ("protocol", RemoteProtocolError),
            ("error", ConnectionEnded),
            ("idle", ConnectionEnded),
            ("", ConnectionEnded),
        ],
    )
    def test_a_refusal_names_its_reason(
        self, ends: tuple[Channel, Channel], code: str, kind: type[HarmonicIOError]
    ) -> None:
        dialler, listener = Link(ends[0], Role.CONNECTOR), Link(ends[1])
        listener.say_goodbye(code, "The ticket has expired.", "Ask for a new one.")
        with pytest.raises(HarmonicIOError, match="The ticket has expired") as caught:
            dialler.greet(Hello(Role.CONNECTOR), within_s=5)
        assert type(caught.value) is kind
        assert caught.value.hint == "Ask for a new one."

    def test_a_listener_that_says_nothing_is_given_up(self, ends: tuple[Channel, Channel]) -> None:
        with pytest.raises(ConnectionEnded, match="did not answer HELLO"):
            Link(ends[0], Role.CONNECTOR).greet(Hello(Role.CONNECTOR), within_s=0.1)

    def test_a_frame_that_cannot_be_built_leaves_the_link_usable(self, links: tuple[Link, Link]) -> None:
        connector, engine = links
        with pytest.raises(InvalidInput):
            connector.send(message_prefix("id", 0, priority=10**6))
        connector.send(message_prefix("id", 0))
        assert message_of(next_event(engine)).size_bytes == 0


@contextlib.contextmanager
def both_closed(ends: tuple[Channel, Channel]) -> Iterator[tuple[Channel, Channel]]:
    try:
        yield ends
    finally:
        for end in ends:
            end.close()


def greeted(dialler: Link, listener: Link) -> tuple[Link, Link]:
    """Return both links when each has the other's HELLO."""
    dialler.send(dialler.connection.hello(Hello(Role.CONNECTOR, stream="images")))
    hello = next_event(listener)
    assert isinstance(hello, Hello) and hello.stream == "images"
    listener.send(listener.connection.hello(Hello(Role.ENGINE)))
    assert isinstance(next_event(dialler), Hello)
    assert (dialler.connection.part, listener.connection.part) == (Part.SENDER, Part.RECEIVER)
    assert dialler.is_open and listener.is_open
    return dialler, listener


def next_event(link: Link, *, within_s: float = SEVERAL_SECONDS) -> Event:
    """Return the next event of a link, reading as long as it takes."""
    deadline = time.monotonic() + within_s
    while (event := link.next_event()) is None:
        link.read()
        assert time.monotonic() < deadline, f"no event within {within_s:g} s"
    return event


def message_of(event: Event) -> IncomingMessage:
    """Return the one message of this event."""
    (message,) = one_by_one(event)
    assert isinstance(message, IncomingMessage), event
    return message


def next_messages(link: Link, count: int) -> Iterator[IncomingMessage]:
    """Yield so many messages, reading as long as it takes; nothing else may come before the last of them."""
    while count:
        for message in one_by_one(next_event(link)):
            assert isinstance(message, IncomingMessage), message
            assert count, "more messages than were expected"
            count -= 1
            yield message
