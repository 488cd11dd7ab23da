"""Which messages and bytes each segment of a spool holds, and when a segment can go: decisions, pure.

      reserve ──► place ──► (written) ──► settled ──► the last one of its segment ──► Drop, or PutAside if it is spoilt
                    └────► (not written) ──► unplace

- A segment takes messages until it has ``segment_bytes``; it goes when none of its messages is kept any more.
- All segments together have ``max_bytes`` at most; a single message is always admitted.
- A *spoilt* segment holds something that can never be sent (it is damaged, or was refused) and that nobody else has:
  it is put aside for people to look at.

Who calls holds a lock.
"""

from __future__ import annotations

from dataclasses import dataclass

#: A spool has about so many segments when it is full.
SEGMENTS = 64
MIN_SEGMENT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove this segment."""

    segment: int


@dataclass(frozen=True, slots=True)
class PutAside:
    """Move this segment away."""

    segment: int


Instruction = Drop | PutAside


@dataclass(frozen=True, slots=True)
class Place:
    """Where the next record goes; ``is_new``: the segment is to be made first."""

    segment: int
    offset: int
    is_new: bool


@dataclass(slots=True)
class _Segment:
    size_bytes: int = 0
    kept: int = 0
    is_spoilt: bool = False


class Book:
    """The segments of one spool.

    Args:
        max_bytes: What they may have together.
        first: The number of the next new segment.
    """

    def __init__(self, max_bytes: int, first: int = 1) -> None:
        self._max_bytes = max_bytes
        self._segment_bytes = max(MIN_SEGMENT_BYTES, max_bytes // SEGMENTS)
        self._segments: dict[int, _Segment] = {}
        self._active: int | None = None
        self._next = first
        self._reserved_bytes = 0
        self.size_bytes = 0
        self.kept = 0

    def __repr__(self) -> str:
        return f"<Book: {self.kept} kept, {self.size_bytes} bytes in {len(self._segments)} segments>"

    # ── putting in ───────────────────────────────────────────────────────────────────────────────────────────────────

    def reserve(self, size_bytes: int) -> bool:
        """Reserve room for a record of this size; return whether there is."""
        is_empty = not self.kept and not self._reserved_bytes
        if not is_empty and self.size_bytes + self._reserved_bytes + size_bytes > self._max_bytes:
            return False
        self._reserved_bytes += size_bytes
        return True

    def place(self, size_bytes: int) -> tuple[Place, list[Instruction]]:
        """Return where a record goes whose room was reserved."""
        self._reserved_bytes -= size_bytes
        instructions: list[Instruction] = []
        if self._active is not None and self.size_bytes + size_bytes > self._max_bytes:
            instructions = self.rest()
        is_new = self._active is None
        if self._active is None:
            self._active, self._next = self._next, self._next + 1
            self._segments[self._active] = _Segment()
        number = self._active
        segment = self._segments[number]
        place = Place(number, segment.size_bytes, is_new)
        segment.size_bytes += size_bytes
        segment.kept += 1
        self.size_bytes += size_bytes
        self.kept += 1
        if segment.size_bytes >= self._segment_bytes:
            self._active = None
        return place, instructions

    def unplace(self, place: Place, size_bytes: int) -> list[Instruction]:
        """It could not be written there: nothing more goes into that segment."""
        segment = self._segments[place.segment]
        segment.size_bytes -= size_bytes
        self.size_bytes -= size_bytes
        self._close(place.segment)
        return self.settled(place.segment)

    def adopt(
        self, number: int, size_bytes: int, kept: int, *, is_spoilt: bool, is_last: bool = False
    ) -> list[Instruction]:
        """Take in a segment that was found; the last one is filled up, so that restarts do not add up to segments."""
        self._segments[number] = _Segment(size_bytes, kept, is_spoilt)
        self.size_bytes += size_bytes
        self.kept += kept
        if is_last and kept and not is_spoilt and size_bytes < self._segment_bytes:
            self._active = number
        return self._end(number)

    # ── taking out ───────────────────────────────────────────────────────────────────────────────────────────────────

    def settled(self, number: int, *, is_spoilt: bool = False) -> list[Instruction]:
        """A message of this segment is not kept any more; ``is_spoilt``: because it can never be sent."""
        segment = self._segments[number]
        segment.kept -= 1
        if is_spoilt:
            segment.is_spoilt = True
            self._close(number)
        self.kept -= 1
        return self._end(number)

    def rest(self) -> list[Instruction]:
        """Let the segment that is being filled go too, where nothing of it is kept."""
        if self._active is None or self._segments[self._active].kept:
            return []
        number, self._active = self._active, None
        return self._end(number)

    def _close(self, number: int) -> None:
        if self._active == number:
            self._active = None

    def _end(self, number: int) -> list[Instruction]:
        segment = self._segments[number]
        if segment.kept or number == self._active:
            return []
        del self._segments[number]
        self.size_bytes -= segment.size_bytes
        return [PutAside(number) if segment.is_spoilt else Drop(number)]
