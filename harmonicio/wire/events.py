"""What the peer said: the events that :class:`~harmonicio.wire.connection.Connection` gives out.

What is made once per message, on the hot path, is not frozen, because that would triple its cost; the rest are frozen
records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from harmonicio.core.message import Failure, Metadata, Outcome
from harmonicio.wire.frames import CHECKSUM_FLAGS, VERSION
from harmonicio.wire.metadata import read_metadata


class Role(StrEnum):
    """Which part of the system is at an end of a connection."""

    CONNECTOR = "connector"
    ENGINE = "engine"
    MASTER = "master"


@dataclass(frozen=True, slots=True)
class Hello:
    """What an end says of itself; a listener's answer leaves ticket, source, engine and worker empty.

    ``arena`` is the size in bytes of the shared memory whose descriptor comes along; of a listener, that it is used.
    """

    role: Role
    stream: str = ""
    ticket: str = field(default="", repr=False)
    source: str = ""
    engine: str = ""
    worker: str = ""
    checksums: tuple[str, ...] = ()
    max_message_bytes: int = 0
    software: str = ""
    arena: int = 0
    versions: tuple[int, ...] = (VERSION,)


@dataclass(frozen=True, slots=True)
class Credit:
    """Totals since the connection opened, in messages and payload bytes."""

    messages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Depth:
    """Messages of this stream that wait in the backlog."""

    messages: int


class IncomingMessage:
    """One message as it arrives.

    Attributes:
        sequence: Its number on this connection, from 0; outcomes name it.
        id: 32 hex digits, or the source's own text.
        section: The header section as received, to be passed on unchanged.
        failure: Why an earlier attempt failed, if the sender said so.
        size_bytes: Length of the payload.
        payload: Read-only view of the payload; ``None`` in :class:`MessageBegun`. A payload of at most
            ``MAX_INLINE_BYTES`` lies in the decoder's buffer: the decoder takes a new buffer as long as the view lives.
        is_suspect: It was outstanding where a connection broke.
        is_dead: Its sender gives it up.
        is_intact: False when the checksum trailer does not match.
        place: Offset of the payload in the arena, when it lies there: then there is no ``payload``; else -1.
    """

    def __init__(self, sequence: int, message_id: str, size_bytes: int, payload: memoryview | None = None) -> None:
        self.sequence = sequence
        self.id = message_id
        self.size_bytes = size_bytes
        self.payload = payload
        self.flags = self.attempts = self.crashes = self.priority = 0
        self.section = b""
        self.failure: Failure | None = None
        self.is_intact, self.is_suspect, self.is_dead = True, False, False
        self.place = -1

    @property
    def has_checksum(self) -> bool:
        return bool(self.flags & CHECKSUM_FLAGS)

    @property
    def metadata(self) -> Metadata:
        """What the source sent along, read from the section each time.

        Raises:
            RemoteProtocolError: it cannot be read.
        """
        return read_metadata(self.section)

    def __repr__(self) -> str:
        return f"<IncomingMessage {self.sequence} {self.id!r}, {self.size_bytes} bytes, attempt {self.attempts + 1}>"


@dataclass(slots=True)
class MessageBegun:
    """A message above ``MAX_INLINE_BYTES`` starts: give a buffer for its payload, or discard it."""

    message: IncomingMessage


@dataclass(slots=True)
class MessagesReceived:
    """Whole messages are here, at least one: a single large one, or small ones that came one behind the other."""

    messages: list[IncomingMessage]


@dataclass(slots=True)
class OutcomeRange:
    """The same outcome for the messages ``first`` to ``last``, both included."""

    first: int
    last: int
    outcome: Outcome


@dataclass(slots=True)
class OutcomesReceived:
    ranges: tuple[OutcomeRange, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """Views of these messages' payloads, which lie in the arena, have survived the handler: their outcomes follow."""

    sequences: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Released:
    """No view of these messages' payloads is left: their places in the arena are the sender's again."""

    sequences: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The final outcomes of these messages are wanted."""

    message_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """The final outcome of a message that took the backlog; ``None`` when the master no longer knows it."""

    message_id: str
    outcome: Outcome | None


@dataclass(frozen=True, slots=True)
class ResultsReceived:
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """The peer takes or sends no new message and ends within ``within_s`` seconds."""

    within_s: float


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The peer ends the connection; ``code`` is empty when nothing is wrong."""

    code: str = ""
    text: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The byte stream ended between two frames."""


Event = (
    Hello
    | Credit
    | Depth
    | MessageBegun
    | MessagesReceived
    | OutcomesReceived
    | Held
    | Released
    | Subscribe
    | ResultsReceived
    | Drain
    | Goodbye
    | ConnectionClosed
)
