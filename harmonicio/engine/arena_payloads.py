"""Payloads that lie in a source's shared memory: the engine looks at them there, and says when it does not any more.

    taken ──► the handler has a view ──► released
                                          ├── no view is left ─────────────────────────────► answered
                                          └── one is ──► HELD, answered ──► none is left ──► RELEASED

Whoever has sent the message uses its slot again after the answer, unless HELD was said before. HELD goes in one write
with the answer or before it; RELEASED only after HELD has been written.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from harmonicio.core.errors import RemoteProtocolError
from harmonicio.transport.arena import ArenaView
from harmonicio.wire.events import IncomingMessage
from harmonicio.wire.sections import held_frame, released_frame

#: No arena has so many slots.
MAX_HELD = 2**20
#: Of what is still viewed, so much is looked at on one occasion.
_LOOK_AT_ONCE = 64


class ArenaPayloads:
    """The payloads of one connection that lie in its arena."""

    def __init__(self, arena: ArenaView) -> None:
        self._arena = arena
        self._lock = threading.Lock()
        self._viewed: dict[int, memoryview] = {}
        self._answered: list[int] = []
        self._told: dict[int, memoryview] = {}
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<ArenaPayloads in {self._arena!r}: {self.held} held>"

    @property
    def size_bytes(self) -> int:
        return self._arena.size_bytes

    @property
    def held(self) -> int:
        """Messages that were answered although somebody still looks at their payloads, or may."""
        return len(self._told) + len(self._viewed)

    def take(self, message: IncomingMessage) -> ArenaPayload:
        """Return the payload of a message that has a place."""
        if len(self._told) >= MAX_HELD:
            raise RemoteProtocolError("More payloads in shared memory are named than it has room for.")
        return ArenaPayload(self, self._arena, message)

    def released(self, sequence: int, piece: memoryview) -> None:
        """A payload has been handled; remember it when somebody still looks at it."""
        if not self._arena.is_free(piece):
            with self._lock:
                if not self._is_closed:
                    self._viewed[sequence] = piece

    def answered(self, sequence: int) -> None:
        """The answer to a message, whose payload was released, will be written next."""
        if self._viewed and sequence in self._viewed:
            with self._lock:
                self._answered.append(sequence)

    def take_news(self) -> tuple[list[int], list[int]]:
        """Return which messages are held, to be said before their answers, and which are not any more."""
        with self._lock:
            held, self._answered = self._answered, []
            looked_at = [sequence for sequence, _ in zip(self._told, range(_LOOK_AT_ONCE), strict=False)]
            released = []
            for sequence in looked_at:
                piece = self._told.pop(sequence)
                if self._arena.is_free(piece):
                    released.append(sequence)
                else:
                    self._told[sequence] = piece  # The others are looked at first the next time.
            return held, released

    def told(self, held: Iterable[int]) -> None:
        """The peer has been told that these are held: from now on it can be told that they are not."""
        with self._lock:
            for sequence in held:
                if not self._is_closed:
                    self._told[sequence] = self._viewed.pop(sequence)

    def close(self) -> None:
        """The connection has ended; views that there are go on, and the memory with them."""
        with self._lock:
            self._is_closed = True
            self._viewed.clear()
            self._told.clear()
        self._arena.let_go()


class ArenaPayload:
    """One payload in shared memory; a :class:`harmonicio.engine.payloads.Payload`.

    Its piece is taken when somebody asks for a view: a message that is refused first has none that could be forgotten.
    """

    __slots__ = ("_arena", "_offset", "_owner", "_piece", "_sequence", "_size_bytes")

    def __init__(self, owner: ArenaPayloads, arena: ArenaView, message: IncomingMessage) -> None:
        self._owner = owner
        self._arena = arena
        self._sequence = message.sequence
        self._offset = message.place
        self._size_bytes = message.size_bytes
        self._piece: memoryview | None = None

    @property
    def view(self) -> memoryview:
        """A new view each time: what nobody has kept is gone."""
        if self._piece is None:
            self._piece = self._arena.piece(self._offset, self._size_bytes)
        return self._piece[:]

    def release(self) -> None:
        piece, self._piece = self._piece, None
        if piece is not None:
            self._owner.released(self._sequence, piece)


def news_frames(payloads: ArenaPayloads) -> tuple[list[int], list[bytes]]:
    """Return what goes before the answers that are written now: which messages are held, and the frames."""
    held, released = payloads.take_news()
    frames = [held_frame(held)] if held else []
    return held, frames + ([released_frame(released)] if released else [])
