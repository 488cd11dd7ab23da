"""The slots of one connector's arena: shared memory in which the engines of this host find payloads.

            take ──────────► held: by an allocation, by a message that is not safe, by an engine that may look at it
     free ◄── nobody holds it, nobody has a view ──┘

Whoever has the :class:`ArenaSlot` holds the slot; when the last one lets go of it, it is free. It was taken for:

    a copy     of memory, or of a file: held by the transmission alone, from when its message is written to an engine
               until that releases it
    in place   held by the source's allocation, then by the message, and by each of its transmissions

An engine releases a slot with the outcome, or later when it has said that a view of it survived (HELD, RELEASED). A
connection that ends before leaves its slots in quarantine until the process at its other end has ended: a pidfd tells,
one for each process. Where there is none, they are never used again; the arena is bounded, and what finds no room there
travels as bytes. So a connection of which views are left does not end for being idle.

A slot may be let go of by any thread at any time, by the garbage collector in the middle of anything, too: that only
leaves a note, which is read when the next slot is taken.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable

from harmonicio.stream_connector.extents import Extents, capacity_of
from harmonicio.stream_connector.sources import PieceReader
from harmonicio.transport import unix
from harmonicio.transport.arena import IS_SUPPORTED, MAX_ARENA_BYTES, Arena
from harmonicio.wire.events import Event, Held, OutcomesReceived, Released
from harmonicio.wire.frames import ARENA_PAGE_BYTES, PLACE

_log = logging.getLogger(__name__)

#: Of slots that somebody still views, so many are looked at when another is taken.
_LOOK_AT_ONCE = 16
#: What an arena has beyond twice the byte budget: slots are larger than payloads, and sources write ahead of sending.
_BEYOND_BUDGET_BYTES = 1024**2

#: Offset, capacity, and the piece that a source writes into, where it does.
_Note = tuple[int, int, memoryview | None]


class ArenaSlot:
    """A part of the arena. It is free again when nobody holds this.

    Attributes:
        piece: What a source writes into, where it does: while anybody has a view of that, the slot is not free.
    """

    __slots__ = ("_let_go", "_note", "offset", "piece")

    def __init__(self, note: _Note, let_go: Callable[[_Note], object]) -> None:
        self._note = note
        self._let_go = let_go
        self.offset, _, self.piece = note

    def __del__(self) -> None:
        self._let_go(self._note)

    def __repr__(self) -> str:
        return f"<ArenaSlot at {self.offset}, {self._note[1]} bytes>"


class ArenaSlots:
    """The arena of one connector, which is made when it is first needed, with its slots.

    Args:
        max_bytes: How large it may be; 0 means none at all.
        budget_bytes: Of the connector: what is not safe at the same time, and so what the arena is used for.
    """

    def __init__(self, max_bytes: int, budget_bytes: int) -> None:
        wanted = min(max_bytes, 2 * budget_bytes + _BEYOND_BUDGET_BYTES, MAX_ARENA_BYTES)
        self._size_bytes = wanted // ARENA_PAGE_BYTES * ARENA_PAGE_BYTES if IS_SUPPORTED else 0
        self._lock = threading.Lock()
        self._arena: Arena | None = None
        self._extents = Extents(self._size_bytes)
        self._notes: deque[_Note] = deque()
        #: Nobody holds a slot any more: any thread may say so, in the middle of anything.
        self._let_go = self._notes.append
        self._viewed: deque[_Note] = deque()
        self._quarantine: dict[object, tuple[int | None, list[ArenaSlot]]] = {}
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<ArenaSlots: {self._extents!r}, {len(self._quarantine)} engines' slots in quarantine>"

    @property
    def used_bytes(self) -> int:
        """How much is not free."""
        with self._lock:
            self._tidy()
            return self._size_bytes - self._extents.free_bytes

    @property
    def is_possible(self) -> bool:
        """Whether there is shared memory, or can be as far as is known."""
        return self._size_bytes > 0 and not self._is_closed

    def arena(self) -> Arena | None:
        """Return the shared memory, which is made now unless it has been; None where there is none."""
        with self._lock:
            if self._arena is None and self._size_bytes and not self._is_closed:
                try:
                    self._arena = Arena(self._size_bytes)
                except (OSError, ValueError, OverflowError) as error:
                    _log.warning("There is no shared memory of %d bytes: %s", self._size_bytes, error)
                    self._size_bytes = 0
            return self._arena

    def take(self, size_bytes: int, *, is_written_in_place: bool = False) -> ArenaSlot | None:
        """Return a free slot for a payload; None when there is none."""
        if self._arena is None:
            self.arena()
        capacity = capacity_of(size_bytes)
        with self._lock:  # Nobody closes the arena meanwhile.
            arena, piece_bytes = self._arena, size_bytes if is_written_in_place else 0
            if arena is None:
                return None
            note = self._latest(arena, capacity, piece_bytes) or self._taken(arena, capacity, piece_bytes)
        return None if note is None else ArenaSlot(note, self._let_go)

    def copy(self, payload: bytes | memoryview, size_bytes: int) -> ArenaSlot | None:
        """Return a slot that holds a copy of a payload; None when there is no free one."""
        slot = self.take(size_bytes)
        arena = self._arena
        if slot is None or arena is None or not arena.write(slot.offset, payload):
            return None
        return slot

    def read(self, reader: PieceReader) -> ArenaSlot | None:
        """Return a slot into which a payload was read; None when there is no free one.

        Raises:
            InvalidInput: it cannot be read.
        """
        slot = self.take(reader.size_bytes)
        arena = self._arena
        if slot is None or arena is None or not arena.fill(slot.offset, reader.size_bytes, reader.read_into):
            return None
        return slot

    def quarantine(self, process: int | None, slots: Iterable[ArenaSlot]) -> None:
        """Hold slots until a process has ended.

        Args:
            process: A pidfd, closed here; None when nobody can tell.
        """
        engine = None if process is None else unix.identity_of(process) or process
        with self._lock:
            if self._is_closed:
                is_known = True
            elif is_known := engine in self._quarantine:
                self._quarantine[engine][1].extend(slots)
            else:
                self._quarantine[engine] = process, list(slots)
            self._tidy()
        if is_known and process is not None:
            os.close(process)

    def close(self) -> None:
        """Take nothing more, and hand the arena out no more; who has mapped it still has what is in it."""
        with self._lock:
            self._is_closed = True
            arena, self._arena = self._arena, None
            for process, _ in self._quarantine.values():
                if process is not None:
                    os.close(process)
            self._quarantine.clear()
            self._notes = deque(maxlen=0)  # The other, with the arena's memory, ends with the last slot.
            self._let_go = self._notes.append
            self._viewed.clear()
        if arena is not None:
            arena.close()

    def _latest(self, arena: Arena, capacity: int, piece_bytes: int) -> _Note | None:
        """Return what was let go of last, when it serves: nearly always, where messages are alike."""
        if not self._notes:
            return None
        note = self._notes.pop()  # Others only add.
        piece = note[2]
        is_alike = note[1] == capacity and (0 if piece is None else len(piece)) == piece_bytes
        if is_alike and (piece is None or not arena.is_viewed(piece)):
            return note
        self._notes.append(note)
        return None

    def _taken(self, arena: Arena, capacity: int, piece_bytes: int) -> _Note | None:
        self._take_notes()
        offset = self._extents.take(capacity)
        if offset is None:
            self._tidy()
            offset = self._extents.take(capacity)
        if offset is None:
            return None
        return offset, capacity, arena.piece(offset, piece_bytes) if piece_bytes else None

    def _tidy(self) -> None:
        for engine, (process, slots) in list(self._quarantine.items()):
            if process is not None and unix.is_ended(process):
                del self._quarantine[engine]
                os.close(process)
                slots.clear()
        self._take_notes()

    def _take_notes(self) -> None:
        """Free what was let go of and is not viewed any more."""
        while self._notes:
            self._free(self._notes.popleft())
        for _ in range(min(len(self._viewed), _LOOK_AT_ONCE)):
            self._free(self._viewed.popleft())

    def _free(self, note: _Note) -> None:
        offset, capacity, piece = note
        if piece is not None and self._arena is not None and not self._arena.is_free(piece):
            self._viewed.append(note)
        else:
            self._extents.give_back(offset, capacity)


class Transmissions:
    """The slots that one engine has been told of, over one connection.

    Args:
        process: A pidfd of the engine's process, closed here; None when there is none.
    """

    def __init__(self, slots: ArenaSlots, process: int | None) -> None:
        self._slots = slots
        self._process = process
        self._under_way: dict[int, ArenaSlot] = {}
        self._held: dict[int, ArenaSlot] = {}
        self._newest = -1
        self._answers = 0

    def __repr__(self) -> str:
        return f"<Transmissions: {len(self._under_way)} slots under way, {len(self._held)} held>"

    @property
    def is_held(self) -> bool:
        """Whether the engine still has views of what it has answered."""
        return bool(self._held)

    def place(self, sequence: int, slot: ArenaSlot) -> bytes:
        """Give a slot to the engine with the message of this number; return how the message says so."""
        self._under_way[sequence] = slot
        self._newest = sequence
        return PLACE.pack(slot.offset)

    def copy(self, payload: bytes | memoryview, size_bytes: int) -> ArenaSlot | None:
        return self._slots.copy(payload, size_bytes)

    def read(self, reader: PieceReader) -> ArenaSlot | None:
        return self._slots.read(reader)

    def hear(self, event: Event) -> bool:
        """Take note of what the engine releases; return whether the event is about nothing else."""
        if isinstance(event, OutcomesReceived):
            for each in event.ranges:
                self._answered(each.first, each.last)
            return False
        if isinstance(event, Held):
            for sequence in event.sequences:
                if (slot := self._under_way.pop(sequence, None)) is not None:
                    self._held[sequence] = slot
            return True
        if isinstance(event, Released):
            for sequence in event.sequences:
                self._held.pop(sequence, None)
            return True
        return False

    def _answered(self, first: int, last: int) -> None:
        """What was answered is released.

        Nobody has checked these ranges yet: who answers more than was sent has nothing looked at for it, and is found
        out by the dispatch.
        """
        last = min(last, self._newest)
        self._answers += max(0, last - first + 1)
        if first > last or self._answers > self._newest + 1:
            return
        under_way = self._under_way
        numbers = range(first, last + 1) if last - first < len(under_way) else list(under_way)
        for sequence in numbers:
            if first <= sequence <= last:
                under_way.pop(sequence, None)

    def end(self) -> None:
        """The connection has ended, and nobody writes to it: what was not released goes into quarantine."""
        left = [*self._under_way.values(), *self._held.values()]
        self._under_way, self._held = {}, {}
        process, self._process = self._process, None
        if left:
            self._slots.quarantine(process, left)
        elif process is not None:
            os.close(process)
