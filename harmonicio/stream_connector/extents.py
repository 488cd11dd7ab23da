"""Which parts of a piece of shared memory are free: pure numbers.

    used before, by capacity:  kept    | 65536: 4096, 69632 ◄─ last │ …   |
    used before, merged:       spare   | [8192, 40960), [98304, 131072) … |
    never used:                fresh   |         [1 MiB, end)             |

Capacities come in eight steps for each doubling, and are whole pages, so that few kinds of them serve all sizes. The
part that was given back last is taken first: the processor still has it at hand. Memory that was never used is touched
only when little of what was is free: so what a connector has of it stays near the most that it used at the same time,
whatever the sizes. All that is free is merged with its neighbours now and then: when a good part of it is kept in
capacities that nobody asks for, and before there is said to be no room.
"""

from __future__ import annotations

from functools import lru_cache

from harmonicio.wire.frames import ARENA_PAGE_BYTES

#: What is kept is merged when it is more than this part, an eighth, of all that was ever used.
_MERGE_BEYOND = 8


class Extents:
    """The parts of ``total_bytes``, which start at 0.

    Attributes:
        free_bytes: What is not taken, in one part or in many.
        fresh_offset: Where memory begins that was never used.
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = self.free_bytes = total_bytes
        self.fresh_offset = 0
        self._kept: dict[int, list[int]] = {}
        self._kept_bytes = 0
        self._spare: list[tuple[int, int]] = []

    def __repr__(self) -> str:
        return f"<Extents: {self.free_bytes} of {self.total_bytes} bytes free, fresh from {self.fresh_offset}>"

    def take(self, capacity: int) -> int | None:
        """Return the offset of a part of this capacity; None when no free one is large enough."""
        if capacity > self.free_bytes:
            return None
        if kept := self._kept.get(capacity):
            offset: int | None = kept.pop()
            self._kept_bytes -= capacity
        else:
            offset = self._found(capacity)
        if offset is not None:
            self.free_bytes -= capacity
        return offset

    def give_back(self, offset: int, capacity: int) -> None:
        """Take back what :meth:`take` has returned."""
        self.free_bytes += capacity
        self._kept_bytes += capacity
        self._kept.setdefault(capacity, []).append(offset)

    def _found(self, capacity: int) -> int | None:
        """Return a part that was used before, as far as there is one; else a fresh one."""
        offset = self._cut(capacity)
        if offset is None and self._kept_bytes * _MERGE_BEYOND > self.fresh_offset:
            self._merge()
            offset = self._cut(capacity)
        if offset is None and self.fresh_offset + capacity > self.total_bytes:
            self._merge()
            offset = self._cut(capacity)
        return self._fresh(capacity) if offset is None else offset

    def _cut(self, capacity: int) -> int | None:
        for at, (offset, length) in enumerate(self._spare):
            if length > capacity:
                self._spare[at] = (offset + capacity, length - capacity)
                return offset
            if length == capacity:
                del self._spare[at]
                return offset
        return None

    def _fresh(self, capacity: int) -> int | None:
        """Return a part that is fresh at its end at least: a spare one before it is used with it."""
        offset = self.fresh_offset
        if self._spare and sum(self._spare[-1]) == offset:
            offset = self._spare[-1][0]
        if offset + capacity > self.total_bytes:
            return None
        if offset < self.fresh_offset:
            self._spare.pop()
        self.fresh_offset = offset + capacity
        return offset

    def _merge(self) -> None:
        free = sorted(self._spare + [(offset, length) for length, kept in self._kept.items() for offset in kept])
        self._kept, self._kept_bytes = {}, 0
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
