"""Properties of the wire against a hostile peer: only its own error is raised, and only announced memory is taken."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benches.wire_messages import give
from harmonicio.core.errors import ConnectionEnded, RemoteProtocolError
from harmonicio.core.message import Failure, Outcome, OutcomeKind, RejectReason
from harmonicio.wire import events, sections
from harmonicio.wire.checksum import trailer
from harmonicio.wire.connection import HANDSHAKE_LIMIT_BYTES, Connection, Part, State, message_prefix
from harmonicio.wire.decoder import LARGEST_KEPT_BYTES, Decoder
from harmonicio.wire.events import Role
from harmonicio.wire.frames import FIXED, FIXED_LENGTH, MAX_HEADER_BYTES, MAX_INLINE_BYTES, MAX_PAYLOAD_BYTES, Flag
from harmonicio.wire.outcomes import OutcomeBatch

#: What the reader of these tests takes at most; more is discarded, as an engine does with ``rejected: too_large``.
ALLOWED_PAYLOAD_BYTES = 256 * 1024


def listener(role: Role) -> Connection:
    """A connection that listened and has accepted this role's HELLO."""
    connection = Connection()
    feed(connection, Connection(role).hello(events.Hello(role)))
    connection.hello(events.Hello(Role.ENGINE))
    return connection


def dialler(role: Role) -> Connection:
    connection = Connection(role)
    connection.hello(events.Hello(role))
    feed(connection, sections.hello_frame(events.Hello(Role.MASTER)))
    return connection


SITUATIONS: dict[str, Callable[[], Connection]] = {
    "a listener before HELLO": Connection,
    "a dialler before HELLO": lambda: Connection(Role.ENGINE),
    "a listener to a connector": lambda: listener(Role.CONNECTOR),
    "a listener to an engine": lambda: listener(Role.ENGINE),
    "a connector": lambda: dialler(Role.CONNECTOR),
    "an engine": lambda: dialler(Role.ENGINE),
}


def feed(connection: Connection, data: bytes) -> list[events.Event]:
    """Give all bytes, or as many as the connection takes, look at all metadata; return the events."""
    found: list[events.Event] = []
    view = memoryview(data)
    while True:
        while (event := connection.next_event()) is not None:
            found.append(event)
            if isinstance(event, events.MessagesReceived):
                assert all(isinstance(message.metadata, dict) for message in event.messages)
            if isinstance(event, events.MessageBegun):
                if event.message.size_bytes <= ALLOWED_PAYLOAD_BYTES:
                    connection.provide_payload_buffer(memoryview(bytearray(event.message.size_bytes)))
                else:
                    connection.discard_payload()
        if not len(view) or connection.state is State.CLOSED:
            return found
        view = view[give(connection, view) :]


def survive(connection: Connection, data: bytes) -> None:
    """Anything but the wire's own errors fails the test."""
    try:
        feed(connection, data)
        connection.end_of_stream()
    except (RemoteProtocolError, ConnectionEnded) as error:
        assert len(str(error)) < 1000


def outcomes_frame(*outcomes: Outcome) -> bytes:
    batch = OutcomeBatch()
    for sequence, outcome in enumerate(outcomes):
        batch.add(sequence, outcome)
    return batch.take_frame()


VALID = [
    sections.hello_frame(events.Hello(Role.CONNECTOR, stream="s", ticket="t", checksums=("xxh3", "crc32"))),
    sections.credit_frame(7, 2**40),
    sections.depth_frame(3),
    sections.subscribe_frame(["a", "ab" * 16]),
    sections.drain_frame(2.5),
    outcomes_frame(
        Outcome(OutcomeKind.DONE),
        Outcome(OutcomeKind.DONE, result={"sum": 1.5, "of": [1, 2, b"x"]}),
        Outcome(OutcomeKind.FAILED, failure=Failure("ValueError", "bad", "Traceback")),
        Outcome(OutcomeKind.REJECTED, reason=RejectReason.NO_CREDIT, text="no"),
    ),
    sections.results_frame([events.Result("a", None), events.Result("b", Outcome(OutcomeKind.DONE))]),
    message_prefix("00" * 16, 5) + b"hello",
    message_prefix("text id", 3, metadata={"x": [1, {"y": None}]}, flags=Flag.CHECKSUM_CRC32)
    + b"abc"
    + trailer(Flag.CHECKSUM_CRC32, b"abc"),
    message_prefix("ab" * 16, 70_000, attempts=2, failure=Failure("E", "t")) + bytes(70_000),
    sections.goodbye_frame(events.Goodbye("draining", "Enough.", "Go on.")),
]

situations = st.sampled_from(sorted(SITUATIONS))
sequences = st.lists(st.sampled_from(VALID), min_size=1, max_size=5).map(b"".join)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(["role", "versions", "metadata", "id", "failure"]), inner
        )
    ),
    max_leaves=10,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Valid frames with bits flipped, pieces cut out or put in, and the end missing."""
    data = bytearray(draw(sequences))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, min(len(data), 400) - 1)))
        match draw(st.sampled_from(["flip", "insert", "remove", "cut"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=20))
            case "remove":
                del data[at : at + draw(st.integers(1, 20))]
            case _:
                del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


@st.composite
def plausible(draw: st.DrawFn) -> bytes:
    """A frame whose header is well formed, but whose numbers and section may be anything."""
    section = draw(st.binary(max_size=60) | plain.map(msgpack.packb))
    header = FIXED.pack(
        b"HI",
        1,
        draw(st.integers(0, 12)),
        draw(st.sampled_from([0, 1, 2, 4, 8, 12, 16, 32]) | st.integers(0, 2**16 - 1)),
        draw(st.integers(0, 255)),
        draw(st.integers(0, 255)),
        draw(st.just(len(section)) | st.integers(0, 2**32 - 1)),
        draw(st.integers(-(2**15), 2**15 - 1)),
        draw(st.integers(0, 2**16 - 1)),
        draw(st.sampled_from([0, 1, 10, MAX_INLINE_BYTES + 1, 2**63]) | st.integers(0, 2**64 - 1)),
        draw(st.binary(min_size=16, max_size=16)),
    )
    return header + section + draw(st.binary(max_size=30))


@given(situations, st.binary(max_size=300) | st.binary(max_size=300).map(lambda rest: b"HI\x01" + rest))
def test_any_bytes_give_events_or_a_protocol_error(situation: str, data: bytes) -> None:
    survive(SITUATIONS[situation](), data)


@given(situations, mutated())
def test_damaged_frames_give_events_or_a_protocol_error(situation: str, data: bytes) -> None:
    survive(SITUATIONS[situation](), data)


@given(situations, st.lists(plausible(), min_size=1, max_size=3).map(b"".join))
def test_plausible_frames_give_events_or_a_protocol_error(situation: str, data: bytes) -> None:
    survive(SITUATIONS[situation](), data)


@given(situations, sequences)
def test_frames_in_any_order_give_events_or_a_protocol_error(situation: str, data: bytes) -> None:
    survive(SITUATIONS[situation](), data)


# ── what is refused, and with which words ────────────────────────────────────────────────────────────────────────────


def header(kind: int = 4, section_length: int = 0, size: int = 0, flags: int = 0) -> bytes:
    return FIXED.pack(b"HI", 1, kind, flags, 0, 0, section_length, 0, 0, size, bytes(16))


def test_a_size_beyond_all_bounds_is_refused_where_payloads_lie_in_shared_memory_too() -> None:
    decoder = Decoder()
    decoder.use_arena(2**20)
    decoder.feed(header(size=3) + b"abc" + header(size=2**63, flags=32) + bytes(8))
    assert len(decoder.next_frame()) == 1, "the one before it is good"
    with pytest.raises(RemoteProtocolError, match="A payload of 9223372036854775808 bytes"):
        decoder.next_frame()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "not a HarmonicIO data connection"),
        (bytes.fromhex("16030100c8010000c40303"), "not a HarmonicIO data connection"),
        (b"H", ""),
        (b"X", "not a HarmonicIO data connection"),
        (b"HX", "not a HarmonicIO data connection"),
        (b"HI\x02", "speaks version 2"),
        (b"HI\x00" + bytes(37), "speaks version 0"),
        (header(kind=0), "no frame of type 0"),
        (header(kind=12), "no frame of type 12"),
        (header(kind=5, size=1), "announces a payload"),
        (header(section_length=MAX_HEADER_BYTES + 1), "A header section of 262145 bytes"),
        (header(section_length=2**32 - 1), "A header section of 4294967295 bytes"),
        (header(size=2**62 + 1), "A payload of 4611686018427387905 bytes"),
        (header(size=2**63), "A payload of"),
        (header(size=2**64 - 1), "A payload of"),
        (header(flags=12), "flags 0xc"),
        (header(size=2**63, flags=32) + bytes(8), "flags 0x20"),
        (header(flags=32), "flags 0x20"),
        (header(flags=1), "its id is text, but has none"),
        (header(section_length=1) + b"\xc1", "not msgpack"),
        (header(section_length=1) + b"\x90", "not a map"),
        (header(section_length=5) + b"\xdd\xff\xff\xff\xff", "claims more items than follow"),
    ],
)
def test_what_breaks_the_protocol_is_refused_with_the_reason(data: bytes, words: str) -> None:
    connection = listener(Role.CONNECTOR)
    if words:
        with pytest.raises(RemoteProtocolError, match=words):
            feed(connection, data)
    else:
        assert feed(connection, data) == []


@pytest.mark.parametrize("size", [2**31 - 1, 2**31 + 1, 2**32 + 1, MAX_PAYLOAD_BYTES])
def test_an_announced_payload_is_taken_by_size_alone(size: int) -> None:
    (event,) = feed(listener(Role.CONNECTOR), header(size=size))
    assert isinstance(event, events.MessageBegun)
    assert event.message.size_bytes == size


@pytest.mark.parametrize("situation", sorted(SITUATIONS))
def test_an_announcement_takes_no_memory(situation: str) -> None:
    connection = SITUATIONS[situation]()
    hostile = header(section_length=MAX_HEADER_BYTES, size=2**31) + bytes(100)
    tracemalloc.start()
    survive(connection, hostile)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_a_discarded_payload_takes_no_more_memory_than_the_kept_buffer() -> None:
    connection = listener(Role.CONNECTOR)
    prefix, piece = header(size=2**40), bytes(2**20)
    tracemalloc.start()
    feed(connection, prefix)
    for _ in range(20):
        feed(connection, piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * LARGEST_KEPT_BYTES


@pytest.mark.row("S14")
@pytest.mark.parametrize(
    "section",
    [
        b"\x91" * MAX_HEADER_BYTES,
        b"\x90" * MAX_HEADER_BYTES,
        b"\xdc\xff\xff" + b"\x90" * 65_535,
        b"\xdd\x00\x01\x00\x00" + (b"\xdc\x00\xff" + b"\x80" * 255) * 256,
        b"\xdc\xff\xff" * 1000,
        b"\xde\xff\xff\xa1a" * 1000,
        b"\x81\xa8metadata\x81\xa1a" + b"\xdc\xff\xff" * 1000 + bytes(MAX_HEADER_BYTES),
        b"\x81\xa8metadata" + b"\x91" * 1000 + b"\xc0",
        b"\x82\xa2id\xa1a\xa2id\xa1b",
        b"\x81\xa8metadata\x81\x01\x02",
        b"\x81\xa8metadata\xc7\x00\x05",
        b"\x81\xa8metadata\xd6\xff\x00\x00\x00\x00",
        b"\xa4text",
    ],
    ids=[
        "deep",
        "extra",
        "wide",
        "bushy",
        "long in long",
        "maps",
        "metadata",
        "too deep",
        "twice",
        "int key",
        "extension",
        "timestamp",
        "text",
    ],
)
def test_msgpack_bombs_are_refused_within_bounds(section: bytes) -> None:
    section = section[:MAX_HEADER_BYTES]
    connection = listener(Role.CONNECTOR)
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError) as caught:
        feed(connection, header(section_length=len(section)) + section)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * MAX_HEADER_BYTES
    assert len(str(caught.value)) < 1000


@pytest.mark.row("S7")
@pytest.mark.parametrize(
    "message_id", ["x" * 201, "x" * 4_096, "a\0b", "a\nb", "\x1b[31m", "a\N{RIGHT-TO-LEFT OVERRIDE}b", " "]
)
def test_a_message_with_an_id_that_is_none_is_refused(message_id: str) -> None:
    section = msgpack.packb({"id": message_id})
    with pytest.raises(RemoteProtocolError, match="message id"):
        feed(listener(Role.CONNECTOR), header(section_length=len(section), flags=int(Flag.TEXT_ID)) + section)


@pytest.mark.row("S4")
def test_a_listener_reads_no_more_than_one_hello_before_it_refuses() -> None:
    connection, read = Connection(), 0
    endless = header(kind=1, section_length=MAX_HEADER_BYTES) + bytes(MAX_HEADER_BYTES)
    with pytest.raises(RemoteProtocolError, match="too long"):
        while True:
            buffer = connection.receive_buffer()
            buffer[:] = endless[read : read + len(buffer)]
            connection.bytes_received(len(buffer))
            read += len(buffer)
            assert connection.next_event() is None
    assert read <= HANDSHAKE_LIMIT_BYTES


@pytest.mark.row("S4")
def test_a_message_before_hello_is_refused_without_its_payload() -> None:
    for size in (10, 2**40):
        with pytest.raises(RemoteProtocolError, match="MESSAGE frame arrived in state handshake"):
            feed(Connection(), header(size=size) + bytes(FIXED_LENGTH))


def test_a_second_hello_is_refused() -> None:
    hello = sections.hello_frame(events.Hello(Role.CONNECTOR))
    with pytest.raises(RemoteProtocolError, match="HELLO"):
        feed(listener(Role.CONNECTOR), hello)


def test_a_hello_for_other_versions_is_refused_with_both() -> None:
    with pytest.raises(RemoteProtocolError, match=r"versions \[7, 9\].*this side 1"):
        feed(Connection(), sections.hello_frame(events.Hello(Role.CONNECTOR, versions=(7, 9))))


def test_a_master_that_dials_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="A master does not dial"):
        feed(Connection(), sections.hello_frame(events.Hello(Role.MASTER)))


def test_each_end_takes_only_the_frames_of_its_part() -> None:
    for frame in (sections.credit_frame(1, 1), sections.outcomes_frame([]), sections.results_frame([])):
        with pytest.raises(RemoteProtocolError, match="as receiver"):
            feed(listener(Role.CONNECTOR), frame)
    for frame in (sections.depth_frame(1), sections.subscribe_frame([]), message_prefix("00" * 16, 0)):
        with pytest.raises(RemoteProtocolError, match="as sender"):
            feed(listener(Role.ENGINE), frame)
    assert listener(Role.ENGINE).part is Part.SENDER
    assert dialler(Role.ENGINE).part is Part.RECEIVER
