"""Which parts of a piece of shared memory are free: pure numbers.

    never used, or merged again:  spare    |         [8192, 1 MiB)            |
    used before, by capacity:     kept     | 65536: 4096, 69632 ◄─ last │ …   |

Capacities come in eight steps for each doubling, and are whole pages, so that few kinds of them serve all sizes. The
part that was given back last is taken first: the processor still has it at hand, and memory that was never used is not
touched. Only when neither serves, all that is free is merged with its neighbours.
"""

from __future__ import annotations

from functools import lru_cache

from harmonicio.wire.frames import ARENA_PAGE_BYTES


class Extents:
    """The parts of ``total_bytes``, which start at 0.

    Attributes:
        free_bytes: What is not taken, in one part or in many.
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = self.free_bytes = total_bytes
        self._kept: dict[int, list[int]] = {}
        self._spare: list[tuple[int, int]] = [(0, total_bytes)]

    def __repr__(self) -> str:
        return f"<Extents: {self.free_bytes} of {self.total_bytes} bytes free>"

    def take(self, capacity: int) -> int | None:
        """Return the offset of a part of this capacity; None when no free one is large enough."""
        if kept := self._kept.get(capacity):
            offset: int | None = kept.pop()
        elif capacity > self.free_bytes:
            return None
        else:
            offset = self._cut(capacity)
            if offset is None and self._kept:
                self._merge()
                offset = self._cut(capacity)
        if offset is None:
            return None
        self.free_bytes -= capacity
        return offset

    def give_back(self, offset: int, capacity: int) -> None:
        """Take back what :meth:`take` has returned."""
        self.free_bytes += capacity
        self._kept.setdefault(capacity, []).append(offset)

    def _cut(self, capacity: int) -> int | None:
        for at, (offset, length) in enumerate(self._spare):
            if length > capacity:
                self._spare[at] = (offset + capacity, length - capacity)
                return offset
            if length == capacity:
                del self._spare[at]
                return offset
        return None

    def _merge(self) -> None:
        free = sorted(self._spare + [(offset, length) for length, kept in self._kept.items() for offset in kept])
        self._kept = {}
        self._spare = []
        for offset, length in free:
            if self._spare and sum(self._spare[-1]) == offset:
                offset, length = self._spare[-1][0], self._spare.pop()[1] + length
            self._spare.append((offset, length))


@lru_cache(1024)  # Sizes come again and again.
def capacity_of(size_bytes: int) -> int:
    """Return how much is taken for ``size_bytes``: at most an eighth more, or what fills a page."""
    step = max(ARENA_PAGE_BYTES, 1 << max(0, (size_bytes - 1).bit_length() - 4))
    return max(1, -(-size_bytes // step)) * step
