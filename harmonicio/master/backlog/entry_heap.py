"""Entries of a stream in some order, the first of them at hand.

It holds whole numbers, a rank above the sequence, so that the smallest is the first. An entry that leaves, or whose
rank changes, stays in it as a stale number until that comes to the top, where it no longer agrees with its entry. When
the heap has doubled, stale numbers are cleared out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush

from harmonicio.master.backlog.entry import Entry

#: Sequences stay below 2 ** 48: at a million messages a second that is nine years.
SEQUENCE_BITS = 48
_SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1
_STALE_ALLOWED = 1024


class EntryHeap:
    """A heap of entries.

    Args:
        rank: Smaller goes first, and within a rank the earlier sequence.
        is_in: Whether an entry belongs to it now.
        find: Returns an entry by its sequence.
    """

    def __init__(
        self, rank: Callable[[Entry], int], is_in: Callable[[Entry], bool], find: Callable[[int], Entry | None]
    ) -> None:
        self._rank = rank
        self._is_in = is_in
        self._find = find
        self._numbers: list[int] = []
        self._cleared_at = _STALE_ALLOWED

    def __len__(self) -> int:
        """How many numbers it holds, stale ones included."""
        return len(self._numbers)

    def __repr__(self) -> str:
        return f"<EntryHeap of up to {len(self._numbers)} entries>"

    def fill(self, entries: Iterable[Entry]) -> None:
        """Hold those of these entries that belong to it, and no others."""
        self._numbers = [self.number(entry) for entry in entries if self._is_in(entry)]
        heapify(self._numbers)
        self._cleared_at = 2 * len(self._numbers) + _STALE_ALLOWED

    def push(self, entry: Entry) -> None:
        """Enter an entry, perhaps once more."""
        heappush(self._numbers, self.number(entry))
        if len(self._numbers) > self._cleared_at:
            held = [self._at(number) for number in set(self._numbers)]
            self.fill(entry for entry in held if entry is not None)

    def first(self) -> Entry | None:
        """Return the first entry and leave it where it is."""
        while self._numbers:
            entry = self._at(self._numbers[0])
            if entry is not None:
                return entry
            heappop(self._numbers)
        return None

    def in_order(self) -> Iterator[Entry]:
        """Return its entries from the first on; each costs as if the heap were as long as what was taken so far."""
        numbers, before = self._numbers, -1
        open_places = [(numbers[0], 0)] if numbers else []
        while open_places:
            number, place = heappop(open_places)
            for below in (2 * place + 1, 2 * place + 2):
                if below < len(numbers):
                    heappush(open_places, (numbers[below], below))
            entry = None if number == before else self._at(number)
            before = number
            if entry is not None:
                yield entry

    def number(self, entry: Entry) -> int:
        """Return an entry's place in the order."""
        return self._rank(entry) << SEQUENCE_BITS | entry.sequence

    def _at(self, number: int) -> Entry | None:
        entry = self._find(number & _SEQUENCE_MASK)
        is_current = entry is not None and self._is_in(entry) and self.number(entry) == number
        return entry if is_current else None
