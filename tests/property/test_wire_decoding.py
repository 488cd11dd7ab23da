"""Properties of the wire: however bytes are cut, the same events come out, and what was given out stays as it was."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benches.wire_messages import (
    DIALLER_HELLO,
    Sent,
    chunkings,
    controls_to_receiver,
    encoded_control,
    failures,
    meant,
    message_ids,
    messages,
    pieces,
    received,
    texts,
    values,
)
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.wire import events, sections
from harmonicio.wire.checksum import FLAG_OF, SUPPORTED, trailer
from harmonicio.wire.connection import Connection, State, message_prefix
from harmonicio.wire.decoder import LONGEST_REACH_BYTES, SHORTEST_REACH_BYTES, SMALLEST_KEPT_BYTES, Decoder, Frame
from harmonicio.wire.events import Role
from harmonicio.wire.frames import MAX_INLINE_BYTES, Flag

outcomes = st.one_of(
    st.just(Outcome(OutcomeKind.STORED)),
    values.map(lambda value: Outcome(OutcomeKind.DONE, result=value)),
    failures.map(lambda failure: Outcome(OutcomeKind.FAILED, failure=failure)),
    st.builds(
        lambda reason, text: Outcome(OutcomeKind.REJECTED, reason=reason, text=text),
        st.sampled_from(RejectReason),
        texts,
    ),
)


@given(st.lists(messages() | controls_to_receiver, max_size=6), chunkings, st.booleans())
def test_any_chunking_gives_the_events_that_were_sent(sent: list[Any], cuts: list[int], is_discarding: bool) -> None:
    data, expected, number = Connection(Role.CONNECTOR).hello(DIALLER_HELLO), [DIALLER_HELLO], 0
    for item in sent:
        if isinstance(item, Sent):
            data += item.encoded()
            expected.append(meant(number, item, is_discarding=is_discarding))
            number += 1
        else:
            data += encoded_control(item)
            expected.append(item)
    connection = Connection()
    assert received(connection, data, cuts, is_discarding=is_discarding) == expected
    assert connection.end_of_stream() == events.ConnectionClosed()


outcome_ranges = st.builds(
    lambda first, more, outcome: events.OutcomeRange(first, first + more, outcome),
    st.integers(0, 2**62),
    st.integers(0, 1000),
    outcomes,
)
results = st.builds(events.Result, message_ids, st.none() | outcomes)
to_sender = st.one_of(
    st.builds(events.Credit, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
    st.lists(outcome_ranges, max_size=6).map(tuple).map(events.OutcomesReceived),
    st.lists(results, max_size=6).map(tuple).map(events.ResultsReceived),
    st.builds(events.Drain, st.floats(0, 1e8)),
)


def encoded_answer(event: events.Event) -> bytes:
    if isinstance(event, events.Credit):
        return sections.credit_frame(event.messages, event.bytes)
    if isinstance(event, events.OutcomesReceived):
        return sections.outcomes_frame(
            [(item.first, item.last, item.outcome.kind, sections.packed_detail(item.outcome)) for item in event.ranges]
        )
    if isinstance(event, events.ResultsReceived):
        return sections.results_frame(event.results)
    return encoded_control(event)


@given(st.lists(to_sender, max_size=6), chunkings)
def test_any_chunking_of_answers_gives_what_was_answered(answers: list[events.Event], cuts: list[int]) -> None:
    dialler = Connection(Role.CONNECTOR)
    dialler.hello(DIALLER_HELLO)
    hello, goodbye = events.Hello(Role.ENGINE, max_message_bytes=7), events.Goodbye("draining", "Enough.", "Go on.")
    data = sections.hello_frame(hello) + b"".join(map(encoded_answer, answers)) + sections.goodbye_frame(goodbye)
    assert received(dialler, data, cuts) == [hello, *answers, goodbye]
    assert dialler.state is State.CLOSED
    assert dialler.end_of_stream() is None


hellos = st.builds(
    events.Hello,
    role=st.sampled_from(Role),
    stream=texts,
    ticket=texts,
    source=texts,
    engine=texts,
    worker=texts,
    checksums=st.lists(texts, max_size=3).map(tuple),
    max_message_bytes=st.integers(0, 2**63 - 1),
    software=texts,
    versions=st.lists(st.integers(0, 2**63 - 1), max_size=3).map(tuple),
)


@given(hellos)
def test_a_hello_reads_as_it_was_written(hello: events.Hello) -> None:
    decoder = Decoder()
    decoder.feed(sections.hello_frame(hello))
    frame = decoder.next_frame()
    assert isinstance(frame, Frame)
    assert sections.read_hello(frame.section) == hello


@given(st.lists(st.integers(1, MAX_INLINE_BYTES), min_size=1, max_size=30), st.integers(0, 2**32), chunkings)
def test_a_kept_view_of_an_inline_payload_never_changes(lengths: list[int], seed: int, cuts: list[int]) -> None:
    random = np.random.default_rng(seed)
    payloads = [random.integers(0, 256, length, np.uint8).tobytes() for length in lengths]
    data = b"".join(message_prefix(f"{at:032x}", len(item)) + item for at, item in enumerate(payloads))
    decoder, kept = Decoder(), []
    for piece in pieces(data, cuts):
        while len(piece):
            piece = piece[decoder.feed(piece) :]
            while (messages := decoder.next_frame()) is not None:
                assert isinstance(messages, list)
                # A numpy array alone holds on to the buffer; the memoryview that it was made from is gone.
                kept += [np.frombuffer(each.payload, np.uint8) if random.random() < 0.7 else None for each in messages]
    assert len(kept) == len(payloads)
    for array, payload in zip(kept, payloads, strict=True):
        assert array is None or array.tobytes() == payload


@pytest.mark.parametrize("checksum", ["", *SUPPORTED])
@pytest.mark.parametrize(
    "size", [0, 1, MAX_INLINE_BYTES - 1, MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1, 2**25 - 1, 2**25 + 1]
)
def test_every_size_around_a_limit_arrives_whole(size: int, checksum: str) -> None:
    payload = bytes(range(251)) * (size // 251 + 1)
    sent = Sent("an id", payload[:size], flags=int(FLAG_OF[checksum]))
    other = Sent("another id", b"next", flags=int(FLAG_OF[checksum]))
    connection = Connection()
    received(connection, Connection(Role.CONNECTOR).hello(DIALLER_HELLO), [1 << 20])
    found = received(connection, sent.encoded() + other.encoded(), [1 << 22, 100_003])
    assert found == [meant(0, sent, is_discarding=False), meant(1, other, is_discarding=False)]


def test_a_checksum_is_of_the_payload() -> None:
    assert trailer(Flag.CHECKSUM_CRC32, b"123456789") == zlib.crc32(b"123456789").to_bytes(8, "big")


def test_a_decoder_that_nobody_looks_into_keeps_its_buffer() -> None:
    decoder, frame = Decoder(), message_prefix("00" * 16, 1000) + bytes(1000)
    for _ in range(1000):
        decoder.feed(frame)
        assert decoder.next_frame() is not None
    assert decoder.abandoned_buffers == 0


def test_an_abandoned_buffer_is_counted() -> None:
    decoder, frame = Decoder(), message_prefix("00" * 16, 1000) + bytes(1000)
    kept = []
    for _ in range(20):
        decoder.feed(frame)
        kept.append(decoder.next_frame())
    assert decoder.abandoned_buffers == 2


def test_a_resting_decoder_gives_its_memory_back() -> None:
    decoder = Decoder()
    decoder.feed(message_prefix("00" * 16, 5000))
    data = memoryview(bytes(5000) + b"".join(message_prefix("00" * 16, 60_000) + bytes(60_000) for _ in range(20)))
    while len(data):
        data = data[decoder.feed(data) :]
        while decoder.next_frame() is not None:
            pass
    assert decoder.kept_bytes > SMALLEST_KEPT_BYTES
    decoder.rest()
    assert decoder.kept_bytes == SMALLEST_KEPT_BYTES


def test_a_decoder_reads_far_ahead_only_where_small_messages_come() -> None:
    decoder = Decoder()
    stream = memoryview((message_prefix("00" * 16, 1000) + bytes(1000)) * 3000)
    while len(stream):
        stream = stream[decoder.feed(stream) :]
        while decoder.next_frame() is not None:
            pass
    assert len(decoder.receive_buffer()) == LONGEST_REACH_BYTES
    decoder.feed(message_prefix("00" * 16, 10**6) + bytes(1000))
    assert decoder.next_frame() is not None
    decoder.provide_payload_buffer(memoryview(bytearray(10**6)))
    decoder.bytes_received(len(decoder.receive_buffer()))
    assert decoder.next_frame() is not None
    assert len(decoder.receive_buffer()) == SHORTEST_REACH_BYTES
