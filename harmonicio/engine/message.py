"""What a handler gets, and what it may emit for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harmonicio.core.buffers import Payload, buffer_payload
from harmonicio.core.errors import InvalidInput
from harmonicio.core.message import MAX_PRIORITY, MIN_PRIORITY, Metadata
from harmonicio.core.names import MAX_MESSAGE_ID_BYTES, check_name
from harmonicio.wire.metadata import read_metadata
from harmonicio.wire.sections import source_section

#: What one handler may emit for one message; views of that message's own payload cost nothing.
MAX_EMITTED, MAX_EMITTED_BYTES = 1_000, 1024**3


@dataclass(frozen=True, slots=True)
class Emission:
    """A message that a handler emitted into a stream, on top of its result."""

    id: str
    stream: str
    payload: Payload
    metadata: Metadata
    priority: int


class _Gathered:
    """What has been emitted for one message."""

    __slots__ = ("emissions", "size_bytes")

    def __init__(self) -> None:
        self.emissions: list[Emission] = []
        self.size_bytes = 0


class Parent:
    """A message that further messages can be emitted for. One thread at a time calls, because order makes the ids.

    Nothing leaves while the handler runs. What was emitted leaves when the handler has returned, and everything that
    stands around it (a tier written, a feature row committed) is done; if one of them fails, nothing leaves. The
    message is done when all that it emitted is safe, and keeps its handler's slot until then.
    """

    __slots__ = ("_attempt", "_gathered", "_id", "_metadata", "_priority", "_section", "_stream")

    def __init__(
        self, id: str, stream: str, metadata: Metadata | None, priority: int, attempt: int, section: bytes
    ) -> None:
        self._id = id
        self._stream = stream
        self._metadata = metadata
        self._priority = priority
        self._attempt = attempt
        self._section = section
        self._gathered: _Gathered | None = None

    @property
    def id(self) -> str:
        """Unique within the stream."""
        return self._id

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return self._stream

    @property
    def metadata(self) -> Metadata:
        """What the source sent along; read when the handler looks at it for the first time.

        Threads that do so at the same time may each have a dict of their own.

        Raises:
            RemoteProtocolError: it cannot be read.
        """
        if self._metadata is None:
            self._metadata = read_metadata(self._section)
        return self._metadata

    @property
    def priority(self) -> int:
        """Larger goes first where messages wait."""
        return self._priority

    @property
    def attempt(self) -> int:
        """1 for the first execution that we know of."""
        return self._attempt

    def emit(
        self,
        payload: Any,
        *,
        stream: str,
        metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
    ) -> str:
        """Emit a message into a stream; return its id, ``<id of this message>/<n>`` with n counting from 0.

        A handler that is run again should emit the same again, in the same order: what is known by its id already
        stays as it is.

        Args:
            payload: Bytes, or any object with a contiguous buffer. A writable one is copied; a view of this message's
                own payload is not.
            stream: Any declared stream, this message's own included.
            metadata: As for a message that is sent; not that of this message unless it is given.
            priority: As for a message that is sent; that of this message when left out.

        Raises:
            InvalidInput: something of it cannot be sent, or it would be too much.
        """
        gathered = self._gathered
        if gathered is None:
            gathered = self._gathered = _Gathered()
        emission_id = _emission_id(self.id, len(gathered.emissions))
        emission = Emission(
            emission_id,
            check_name("stream", stream),
            buffer_payload(payload),
            _copied(metadata, emission_id) if metadata else {},
            self.priority if priority is None else _checked_priority(priority),
        )
        size_bytes = gathered.size_bytes + (0 if _is_own(self, emission.payload) else len(emission.payload))
        if size_bytes > MAX_EMITTED_BYTES:
            raise InvalidInput(
                f"The messages emitted for one message have more than {MAX_EMITTED_BYTES} bytes.",
                hint="Emit less for each message, or store it and emit where it is.",
            )
        gathered.emissions.append(emission)
        gathered.size_bytes = size_bytes
        return emission.id

    @property
    def emitted(self) -> tuple[Emission, ...]:
        """What was emitted so far."""
        return () if self._gathered is None else tuple(self._gathered.emissions)

    @property
    def has_emitted(self) -> bool:
        """Whether anything was emitted so far."""
        return self._gathered is not None

    def forget_emitted(self) -> None:
        """Begin afresh, because the handler did not come to its end."""
        self._gathered = None


class Message(Parent):
    """What a handler gets; it cannot be changed.

    It is no frozen dataclass, because to make one would cost five times as much.

    Args:
        section: Header section with the metadata, where that has not been read.
    """

    __slots__ = ("_payload", "_route")

    def __init__(
        self,
        id: str,
        stream: str,
        payload: memoryview,
        metadata: Metadata | None = None,
        priority: int = 0,
        attempt: int = 1,
        route: str = "engine",
        section: bytes = b"",
    ) -> None:
        # Not by way of the parent's, which would cost as much again.
        self._id = id
        self._stream = stream
        self._payload = payload
        self._metadata = metadata
        self._priority = priority
        self._attempt = attempt
        self._route = route
        self._section = section
        self._gathered = None

    def __repr__(self) -> str:
        return f"<Message {self._id!r} of {self._stream!r}, {len(self._payload)} bytes, attempt {self._attempt}>"

    @property
    def payload(self) -> memoryview:
        """Read-only bytes of the message; valid until the handler returns."""
        return self._payload

    @property
    def route(self) -> str:
        """How it came: ``engine``, straight from its source, or ``backlog``."""
        return self._route


def _emission_id(parent: str, number: int) -> str:
    if number >= MAX_EMITTED:
        raise InvalidInput(
            f"More than {MAX_EMITTED} messages cannot be emitted for one message.",
            hint="Put several items into one message.",
        )
    emission_id = f"{parent}/{number}"
    if len(emission_id.encode("utf-8", "surrogatepass")) > MAX_MESSAGE_ID_BYTES:
        raise InvalidInput(
            f"Nothing can be emitted for message {parent[:40]!r}…: the id would have more than "
            f"{MAX_MESSAGE_ID_BYTES} bytes.",
            hint="Look for streams that emit into each other without an end, or send with shorter ids.",
        )
    return emission_id


def _copied(metadata: Mapping[str, Any], emission_id: str) -> Metadata:
    """Return the metadata as it will arrive; the handler may use the same dict again."""
    return read_metadata(source_section(metadata, emission_id))


def _is_own(parent: object, payload: Payload) -> bool:
    """Whether these are bytes of the parent's own payload."""
    own = getattr(parent, "payload", None)
    return isinstance(payload, memoryview) and isinstance(own, memoryview) and payload.obj is own.obj


def _checked_priority(priority: int) -> int:
    if not isinstance(priority, int) or not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        raise InvalidInput(f"{priority!r:.40} is no priority.", hint=f"Use {MIN_PRIORITY} to {MAX_PRIORITY}.")
    return priority
