"""What real peers said to each other: the seeds of the fuzzed frames.

A conversation is what one end of a data connection read, from its first byte on. There are six kinds, one for each
reader and its peer; the files in ``conversations/`` were recorded by ``python -m fuzzing.record``. The golden frames of
the protocol go with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benches.wire_messages import give
from harmonicio.wire import events, sections
from harmonicio.wire.connection import Connection
from harmonicio.wire.events import Role
from harmonicio.wire.frames import (
    CHECKSUM_FLAGS,
    FIXED,
    FIXED_LENGTH,
    PLACE_LENGTH,
    TRAILER_LENGTH,
    VERSION,
    Flag,
    FrameType,
)

FOLDER = Path(__file__).parent / "conversations"
GOLDEN = Path(__file__).parent.parent / "unit" / "wire" / "golden" / f"v{VERSION}"

#: Of the shared memory that some readers have; golden frames name places in it.
ARENA_BYTES = 2**28

TO_RECEIVER = frozenset({FrameType.MESSAGE, FrameType.DEPTH, FrameType.SUBSCRIBE, FrameType.DRAIN, FrameType.GOODBYE})
TO_SENDER = frozenset({FrameType.CREDIT, FrameType.OUTCOMES, FrameType.RESULTS, FrameType.DRAIN, FrameType.GOODBYE})
TO_ARENA_SENDER = TO_SENDER | {FrameType.HELD, FrameType.RELEASED}
TO_LISTENER = TO_DIALLER = frozenset({FrameType.HELLO, FrameType.GOODBYE})


@dataclass(frozen=True)
class Reader:
    """One end of a connection, and what it may hear.

    Attributes:
        dialler: The role as which this end dialled; None for a listener.
        peer: The role of the other end.
        is_greeted: Whether the fuzzed bytes come behind both HELLOs.
        has_arena: Whether both ends have mapped shared memory.
    """

    name: str
    dialler: Role | None
    peer: Role
    is_greeted: bool
    legal: frozenset[FrameType]
    has_arena: bool = False

    def connection(self) -> Connection:
        """Return this end, as it is when the fuzzed bytes come."""
        connection = Connection(self.dialler)
        if self.dialler is not None:
            connection.hello(events.Hello(self.dialler, stream="images"))
        if self.is_greeted:
            give(connection, sections.hello_frame(events.Hello(self.peer, stream="images")))
            connection.next_event()
            if self.dialler is None:
                connection.hello(events.Hello(Role.MASTER))
        if self.has_arena:
            connection.use_arena(ARENA_BYTES)
        return connection


CONNECTOR, ENGINE, MASTER = Role.CONNECTOR, Role.ENGINE, Role.MASTER
READERS = (
    Reader("an engine that a connector dials", None, CONNECTOR, False, TO_LISTENER),
    Reader("a master that an engine dials", None, ENGINE, False, TO_LISTENER),
    Reader("a connector that has dialled", CONNECTOR, MASTER, False, TO_DIALLER),
    Reader("an engine that has dialled", ENGINE, MASTER, False, TO_DIALLER),
    Reader("a receiver that a connector has dialled", None, CONNECTOR, True, TO_RECEIVER, has_arena=True),
    Reader("a master that an engine has dialled", None, ENGINE, True, TO_SENDER),
    Reader("a connector that is greeted", CONNECTOR, ENGINE, True, TO_ARENA_SENDER, has_arena=True),
    Reader("an engine that is greeted by the master", ENGINE, MASTER, True, TO_RECEIVER),
)


def frames_of(data: bytes) -> Iterator[bytes]:
    """Cut well-formed bytes into their frames."""
    at = 0
    while at < len(data):
        _, _, kind, flags, _, _, section_length, _, _, size, _ = FIXED.unpack_from(data, at)
        end = at + FIXED_LENGTH + section_length
        if kind == FrameType.MESSAGE:
            size = PLACE_LENGTH if flags & Flag.ARENA else size
            end += size + (TRAILER_LENGTH if flags & CHECKSUM_FLAGS else 0)
        yield data[at:end]
        at = end


def type_of(frame: bytes) -> int:
    return frame[3] if len(frame) > 3 else 0


def golden_frames() -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted(GOLDEN.glob("*.bin"))}


def conversations() -> dict[str, list[bytes]]:
    """Return what was recorded: its name and its frames."""
    return {path.stem: list(frames_of(path.read_bytes())) for path in sorted(FOLDER.glob("*.bin"))}
