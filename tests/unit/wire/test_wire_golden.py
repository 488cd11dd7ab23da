"""The bytes of each protocol version, kept in ``golden/``: they are written and read the same for ever.

A new kind of frame gets a row here and a file, written by ``python tests/unit/wire/test_wire_golden.py``; a file that
exists is never written again. A change to one is a new version of the protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harmonicio.core.message import Failure, Outcome, OutcomeKind, RejectReason
from harmonicio.testing.arrivals import one_by_one
from harmonicio.wire import events, sections
from harmonicio.wire.checksum import SUPPORTED, trailer
from harmonicio.wire.connection import Connection, message_prefix
from harmonicio.wire.events import Role
from harmonicio.wire.frames import PLACE, VERSION, Flag

FOLDER = Path(__file__).parent / "golden" / f"v{VERSION}"

OWN_ID = "00112233445566778899aabbccddeeff"
FAILURE = Failure("ValueError", "Bad pixel at 3, 4.", "Traceback (most recent call last): …", retryable=False)
#: Both were once too large for the receive buffer, and the second one is.
LARGE, LARGER = bytes(range(256)) * 257, bytes(range(256)) * 513


@dataclass(frozen=True)
class Golden:
    """One frame, its reader's role as a dialler (None for a listener), and what it means."""

    reader: Role | None
    encoded: bytes
    meaning: Any


def message(message_id: str, payload: bytes, **header: Any) -> bytes:
    flags = int(header.get("flags", 0))
    end = trailer(flags, payload) if flags & 12 else b""
    return message_prefix(message_id, len(payload), **header) + payload + end


CONNECTOR_HELLO = events.Hello(
    Role.CONNECTOR,
    stream="images",
    ticket="signed",
    source="microscope-1",
    checksums=("xxh3", "crc32"),
    max_message_bytes=2**36,
    software="harmonicio 1.0",
    versions=(1,),
)
ARENA_HELLO = events.Hello(Role.CONNECTOR, stream="images", source="microscope-1", arena=2**28, versions=(1,))
ENGINE_HELLO = events.Hello(Role.ENGINE, stream="images", ticket="signed", engine="e-1", worker="w-1", versions=(1,))
ANSWER = events.Hello(Role.MASTER, checksums=("crc32",), max_message_bytes=2**30, software="other 2", versions=(1,))
OUTCOMES = (
    events.OutcomeRange(0, 999, Outcome(OutcomeKind.DONE)),
    events.OutcomeRange(1000, 1000, Outcome(OutcomeKind.DONE, result={"sum": 1.5, "of": [1, None, b"\x00"]})),
    events.OutcomeRange(1001, 1001, Outcome(OutcomeKind.STORED)),
    events.OutcomeRange(1002, 1002, Outcome(OutcomeKind.FAILED, failure=FAILURE)),
    events.OutcomeRange(1003, 1004, Outcome(OutcomeKind.REJECTED, reason=RejectReason.NO_CREDIT, text="Wait.")),
)
RESULTS = (
    events.Result(OWN_ID, Outcome(OutcomeKind.DONE, result=7)),
    events.Result("plate 7 µ", Outcome(OutcomeKind.FAILED, failure=FAILURE)),
    events.Result("long ago", None),
)

GOLDEN = {
    "hello_connector": Golden(None, sections.hello_frame(CONNECTOR_HELLO), CONNECTOR_HELLO),
    "hello_engine": Golden(None, sections.hello_frame(ENGINE_HELLO), ENGINE_HELLO),
    "hello_answer": Golden(Role.CONNECTOR, sections.hello_frame(ANSWER), ANSWER),
    "credit": Golden(Role.CONNECTOR, sections.credit_frame(17, 2**40), events.Credit(17, 2**40)),
    "depth": Golden(Role.ENGINE, sections.depth_frame(300), events.Depth(300)),
    "drain": Golden(Role.ENGINE, sections.drain_frame(2.5), events.Drain(2.5)),
    "goodbye": Golden(
        Role.ENGINE,
        sections.goodbye_frame(events.Goodbye("draining", "Enough.", "Go on.")),
        events.Goodbye("draining", "Enough.", "Go on."),
    ),
    "goodbye_in_peace": Golden(Role.ENGINE, sections.goodbye_frame(events.Goodbye()), events.Goodbye()),
    "subscribe": Golden(
        Role.ENGINE, sections.subscribe_frame([OWN_ID, "plate 7 µ"]), events.Subscribe((OWN_ID, "plate 7 µ"))
    ),
    "outcomes": Golden(
        Role.CONNECTOR,
        sections.outcomes_frame(
            [(item.first, item.last, item.outcome.kind, sections.packed_detail(item.outcome)) for item in OUTCOMES]
        ),
        events.OutcomesReceived(OUTCOMES),
    ),
    "hello_arena": Golden(None, sections.hello_frame(ARENA_HELLO), ARENA_HELLO),
    "held": Golden(Role.CONNECTOR, sections.held_frame([0, 17, 2**40]), events.Held((0, 17, 2**40))),
    "released": Golden(Role.CONNECTOR, sections.released_frame([17]), events.Released((17,))),
    "message_arena": Golden(
        Role.ENGINE,
        message_prefix(OWN_ID, 5_000_000, flags=Flag.ARENA, priority=3) + PLACE.pack(8192),
        (OWN_ID, 8192, {}, 3, Flag.ARENA, 0, 0, None),
    ),
    "results": Golden(Role.CONNECTOR, sections.results_frame(RESULTS), events.ResultsReceived(RESULTS)),
    "message_empty": Golden(Role.ENGINE, message(OWN_ID, b""), (OWN_ID, b"", {}, 0, 0, 0, 0, None)),
    "message_own_id": Golden(
        Role.ENGINE, message(OWN_ID, b"payload", priority=-2), (OWN_ID, b"payload", {}, -2, 0, 0, 0, None)
    ),
    "message_text_id": Golden(
        Role.ENGINE,
        message("plate 7 µ", b"payload", metadata={"channel": "gfp", "position": [1, 2.5, None]}, priority=9),
        ("plate 7 µ", b"payload", {"channel": "gfp", "position": [1, 2.5, None]}, 9, Flag.TEXT_ID, 0, 0, None),
    ),
    "message_crc32": Golden(
        Role.ENGINE,
        message(OWN_ID, b"123456789", flags=Flag.CHECKSUM_CRC32),
        (OWN_ID, b"123456789", {}, 0, Flag.CHECKSUM_CRC32, 0, 0, None),
    ),
    "message_suspect": Golden(
        Role.ENGINE,
        message(OWN_ID, b"payload", flags=Flag.SUSPECT, attempts=2, crashes=1, failure=FAILURE),
        (OWN_ID, b"payload", {}, 0, Flag.SUSPECT, 2, 1, FAILURE),
    ),
    "message_dead": Golden(
        Role.ENGINE,
        message(OWN_ID, b"payload", flags=Flag.DEAD, attempts=3, failure=FAILURE),
        (OWN_ID, b"payload", {}, 0, Flag.DEAD, 3, 0, FAILURE),
    ),
    "message_large": Golden(Role.ENGINE, message(OWN_ID, LARGE), (OWN_ID, LARGE, {}, 0, 0, 0, 0, None)),
    "message_larger": Golden(Role.ENGINE, message(OWN_ID, LARGER), (OWN_ID, LARGER, {}, 0, 0, 0, 0, None)),
}
if "xxh3" in SUPPORTED:
    GOLDEN["message_xxh3"] = Golden(
        Role.ENGINE,
        message(OWN_ID, b"123456789", flags=Flag.CHECKSUM_XXH3),
        (OWN_ID, b"123456789", {}, 0, Flag.CHECKSUM_XXH3, 0, 0, None),
    )


def reader_of(name: str) -> Connection:
    """Return a connection that awaits the frame of this name."""
    reader = GOLDEN[name].reader
    connection = Connection(reader)
    if reader is not None:
        connection.hello(events.Hello(reader))
    if not name.startswith("hello"):
        read(connection, sections.hello_frame(ANSWER))
    connection.use_arena(2**28)
    return connection


def read(connection: Connection, data: bytes) -> Any:
    """Return the meaning of the one event in ``data``."""
    rest, found = memoryview(data), []
    while len(rest):
        buffer = connection.receive_buffer()
        count = min(len(buffer), len(rest))
        buffer[:count] = rest[:count]
        connection.bytes_received(count)
        rest = rest[count:]
        while (event := connection.next_event()) is not None:
            if isinstance(event, events.MessageBegun):
                connection.provide_payload_buffer(memoryview(bytearray(event.message.size_bytes)))
            else:
                found += one_by_one(event)
    (event,) = found
    return by_value(event) if isinstance(event, events.IncomingMessage) else event


def by_value(got: events.IncomingMessage) -> tuple[Any, ...]:
    assert (got.payload is None) == (got.place >= 0) and got.is_intact
    return (
        got.id,
        got.place if got.payload is None else bytes(got.payload),
        dict(got.metadata),
        got.priority,
        got.flags,
        got.attempts,
        got.crashes,
        got.failure,
    )


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_a_frame_is_written_as_it_always_was(name: str) -> None:
    assert GOLDEN[name].encoded == file_bytes(name)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_a_frame_that_was_always_written_so_is_understood(name: str) -> None:
    assert read(reader_of(name), file_bytes(name)) == GOLDEN[name].meaning


def test_every_file_has_its_row() -> None:
    assert {path.stem for path in FOLDER.glob("*.bin")} - {"message_xxh3"} == GOLDEN.keys() - {"message_xxh3"}


def file_bytes(name: str) -> bytes:
    return (FOLDER / f"{name}.bin").read_bytes()


if __name__ == "__main__":
    for golden_name, golden_row in GOLDEN.items():
        path = FOLDER / f"{golden_name}.bin"
        if not path.exists():
            path.write_bytes(golden_row.encoded)
