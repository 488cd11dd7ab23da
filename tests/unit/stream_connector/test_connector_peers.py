"""One connection of a connector: what it writes, piece by piece."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harmonicio.core.errors import ConnectionEnded
from harmonicio.core.message import Failure
from harmonicio.stream_connector.arena_slots import ArenaSlots, Transmissions
from harmonicio.stream_connector.delivery import Delivery
from harmonicio.stream_connector.lanes import JOINED_BYTES, Lane, Parcel
from harmonicio.stream_connector.peers import COPIED_BATCH_BYTES, FLUSH_BYTES, Peer, Written
from harmonicio.stream_connector.sources import FileSource
from harmonicio.transport import memory
from harmonicio.transport.channel import SLOW_AFTER_S
from harmonicio.transport.link import Link
from harmonicio.wire.connection import Part, State
from harmonicio.wire.events import IncomingMessage, MessageBegun, MessagesReceived, Role, Subscribe
from harmonicio.wire.frames import FIXED_LENGTH, MAX_INLINE_BYTES, PLACE_LENGTH, Flag
from harmonicio.wire.sections import message_section, subscribe_frame


class Nobody:
    """A delivery's owner that is never asked."""

    def await_outcome(self, delivery: Delivery, timeout_s: float | None) -> None:
        raise AssertionError("Nobody waits here.")


class Wire:
    """A peer, and the other end that reads what it writes."""

    def __init__(self, slots: ArenaSlots | None = None) -> None:
        ours, theirs = memory.pair()
        self.lane = Lane("engine", is_backlog=False)
        transmissions = None if slots is None else Transmissions(slots, None)
        self.peer = Peer(Link(ours, Role.CONNECTOR), self.lane, transmissions=transmissions)
        self.far = Link(theirs)
        self.far.connection.state, self.far.connection.part = State.OPEN, Part.RECEIVER
        self.subscribed: list[str] = []

    def close(self) -> None:
        self.peer.end()
        self.lane.in_flight.clear()  # As the dispatch does; a file is open as long as its parcel lives.
        self.far.close()

    def put(self, payload: bytes | FileSource, section: bytes = b"", message_id: str = "", **fields: object) -> Parcel:
        size = payload.size_bytes if isinstance(payload, FileSource) else len(payload)
        message_id = message_id or f"{len(self.lane.in_flight):032x}"
        parcel = Parcel(Delivery(Nobody(), message_id, size), payload, section)
        for name, value in fields.items():
            setattr(parcel, name, value)
        self.lane.in_flight[len(self.lane.in_flight)] = parcel
        self.lane.outbox.append(parcel)
        return parcel

    def read(self, count: int) -> list[IncomingMessage]:
        """Read so many messages, flushing whenever there may be room again."""
        messages: list[IncomingMessage] = []
        while len(messages) < count:
            event = self.far.next_event()
            if event is None:
                self.peer.unblock()
                self.peer.flush()
                self.far.read()
            elif isinstance(event, MessageBegun):
                buffer = memoryview(bytearray(event.message.size_bytes))
                self.far.connection.provide_payload_buffer(buffer)
            elif isinstance(event, MessagesReceived):
                messages += event.messages
            elif isinstance(event, Subscribe):
                self.subscribed += event.message_ids
        return messages


@pytest.fixture
def wire() -> Iterator[Wire]:
    running = Wire()
    yield running
    running.close()


SIZES = [0, 1, JOINED_BYTES, JOINED_BYTES + 1, MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1, 300_000, 5_000_000, 3]


@pytest.mark.parametrize("flag", [0, Flag.CHECKSUM_XXH3, Flag.CHECKSUM_CRC32])
def test_messages_of_all_sizes_arrive_whole_however_little_the_kernel_takes(wire: Wire, flag: int) -> None:
    wire.peer._checksum_flag = int(flag)
    payloads = [os.urandom(size) for size in SIZES]
    for payload in payloads:
        wire.put(payload)
    messages = wire.read(len(payloads))
    assert [bytes(message.payload or b"") for message in messages] == payloads
    assert all(message.is_intact and message.has_checksum == bool(flag) for message in messages)
    assert wire.lane.begun == len(payloads)
    assert not wire.peer.has_unwritten


@pytest.mark.parametrize("flag", [0, Flag.CHECKSUM_XXH3, Flag.CHECKSUM_CRC32])
def test_files_are_written_piece_by_piece_between_other_messages(wire: Wire, flag: int, tmp_path: Path) -> None:
    wire.peer._checksum_flag = int(flag)
    content = os.urandom(3_500_000)
    (tmp_path / "file").write_bytes(content)
    wire.put(b"before")
    wire.put(FileSource(tmp_path / "file"))
    wire.put(b"after")
    messages = wire.read(3)
    assert [bytes(message.payload or b"") for message in messages] == [b"before", content, b"after"]
    assert all(message.is_intact for message in messages)


def test_small_messages_leave_together(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    channel = wire.peer.link.channel
    send = channel.try_send
    monkeypatch.setattr(channel, "try_send", lambda buffers: calls.append(len(buffers)) or send(buffers))
    for _ in range(100):
        wire.put(bytes(500))
    assert wire.peer.flush() is Written.ALL
    assert calls == [1]


def test_questions_go_before_messages(wire: Wire) -> None:
    wire.put(b"image")
    wire.peer.send_control(subscribe_frame(["a", "b"]))
    wire.read(1)
    assert wire.subscribed == ["a", "b"]


def test_what_failed_travels_with_its_metadata_its_id_and_its_failure(wire: Wire) -> None:
    failure = Failure("ValueError", "bad", "Traceback …", retryable=False)
    section = message_section({"well": "B03"}, "plate 1", None)
    parcel = wire.put(b"image", section, "plate 1", failure=failure, attempts=2)
    parcel.flags = int(Flag.DEAD)
    (message,) = wire.read(1)
    assert (message.id, message.metadata, message.failure) == ("plate 1", {"well": "B03"}, failure)
    assert message.attempts == 2
    assert message.is_dead


def test_a_full_kernel_is_told_to_one_caller_and_nobody_tries_in_vain(wire: Wire) -> None:
    wire.put(bytes(5_000_000))
    assert wire.peer.flush() is Written.FULL
    assert wire.peer.is_blocked
    assert wire.peer.flush() is Written.ALL
    assert len(wire.read(1)) == 1


def test_a_flush_ends_after_so_much_that_others_have_their_turn(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harmonicio.stream_connector.peers.FLUSH_BYTES", 50_000)
    monkeypatch.setattr("harmonicio.stream_connector.peers.BATCH_BYTES", 30_000)
    for _ in range(4):
        wire.put(bytes(30_000))
    assert wire.peer.flush() is Written.SOME
    assert not wire.peer.is_blocked
    assert len(wire.read(4)) == 4


def test_many_threads_may_flush_and_nothing_is_written_twice(wire: Wire) -> None:
    def source() -> None:
        for _ in range(200):
            with adding:
                wire.put(b"%08d" % len(wire.lane.in_flight))
            wire.peer.flush()

    adding = threading.Lock()
    threads = [threading.Thread(target=source) for _ in range(4)]
    for thread in threads:
        thread.start()
    messages = [int(bytes(message.payload or b"")) for message in wire.read(800)]
    for thread in threads:
        thread.join()
    assert messages == list(range(800))


def test_a_connection_that_moves_too_little_is_cut(wire: Wire) -> None:
    wire.put(bytes(5_000_000))
    wire.peer.flush()
    wire.peer.check_speed(100.0)
    wire.peer.check_speed(100.0 + SLOW_AFTER_S - 1)
    with pytest.raises(ConnectionEnded, match="was cut"):
        wire.peer.check_speed(100.0 + SLOW_AFTER_S)


def test_a_connection_that_is_not_blocked_is_never_too_slow(wire: Wire) -> None:
    wire.peer.check_speed(100.0)
    wire.put(bytes(5_000_000))
    wire.peer.flush()
    wire.peer.check_speed(100.0 + 10 * SLOW_AFTER_S)


def test_a_write_that_is_interrupted_ends_the_connection(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(buffers: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(wire.peer.link.channel, "try_send", interrupted)
    wire.put(b"image")
    with pytest.raises(KeyboardInterrupt):
        wire.peer.flush()
    with pytest.raises(ConnectionEnded):
        while True:
            wire.far.read()


def test_the_time_for_a_large_message_starts_when_its_last_byte_has_left(wire: Wire) -> None:
    large, small = wire.put(bytes(5_000_000)), wire.put(b"small")
    wire.read(2)
    assert large.sent_at > 0
    assert small.sent_at == 0, "the dispatch said when"


def test_after_the_end_nothing_is_written_and_ending_again_does_no_harm(wire: Wire) -> None:
    wire.put(b"image")
    wire.peer.end()
    wire.peer.end()
    assert wire.peer.flush() is Written.ALL
    wire.peer.say_goodbye()
    assert wire.lane.begun == 0


def test_what_is_copied_into_shared_memory_is_not_too_much_at_a_time() -> None:
    slots = ArenaSlots(64 * 2**20, 2**30)
    wire = Wire(slots)
    payload = bytes(FLUSH_BYTES // 4)
    for _ in range(10):
        wire.put(payload)
    for begun in (4, 8):
        assert wire.peer.flush() is Written.SOME
        assert wire.lane.begun == begun
    assert wire.peer.flush() is Written.ALL
    assert wire.lane.begun == 10
    wire.close()
    slots.close()


def test_what_lies_in_shared_memory_leaves_together_however_large_it_is() -> None:
    slots = ArenaSlots(64 * 2**20, 2**30)
    wire = Wire(slots)
    writes: list[int] = []
    send = wire.peer.link.channel.try_send

    def counted(buffers: Sequence[memoryview]) -> int:
        writes.append(sum(map(len, buffers)))
        return send(buffers)

    wire.peer.link.channel.try_send = counted  # type: ignore[method-assign]
    for _ in range(24):
        wire.put(bytes(COPIED_BATCH_BYTES // 8))
    assert wire.peer.flush() is Written.ALL
    assert writes == [8 * (FIXED_LENGTH + PLACE_LENGTH)] * 3
    wire.close()
    slots.close()
