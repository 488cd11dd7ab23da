"""Messages that wait in a connector: by priority, and in the order in which they were offered within one.

The first one goes to an engine. The oldest one is the next to lose its patience, so that a message of low priority
goes to the backlog in time, however many of higher priority come. Each keeps its place when it comes back.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator
from operator import attrgetter, neg

from harmonicio.stream_connector.lanes import Parcel

#: So many messages let others pass; those behind more of them wait as they do.
MAX_ASIDE = 1000

_offered_at = attrgetter("offered_at")


class WaitingLine:
    """Who comes next. What is in it is bounded by the connector's byte budget."""

    def __init__(self) -> None:
        self._groups: dict[int, deque[Parcel]] = {}  # by priority; none is empty
        self._priorities: list[int] = []  # the largest one first
        self._length = 0

    def __repr__(self) -> str:
        return f"<WaitingLine of {self._length}, priorities {self._priorities[:5]}>"

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Parcel]:
        return (parcel for priority in self._priorities for parcel in self._groups[priority])

    @property
    def first(self) -> Parcel:
        """The one that goes next; the line is not empty."""
        return self._groups[self._priorities[0]][0]

    @property
    def oldest(self) -> Parcel:
        """The one that has waited longest; the line is not empty."""
        if len(self._priorities) == 1:
            return self.first
        return min((group[0] for group in self._groups.values()), key=_offered_at)

    def join(self, parcel: Parcel) -> None:
        """Put a new message behind those of its priority."""
        self._group(parcel.priority).append(parcel)
        self._length += 1

    def rejoin(self, parcel: Parcel) -> None:
        """Put a message that comes back where it was, among those of its priority."""
        group = self._group(parcel.priority)
        if not group or group[-1].offered_at < parcel.offered_at:
            group.append(parcel)
        else:
            group.insert(bisect.bisect_left(group, parcel.offered_at, key=_offered_at), parcel)
        self._length += 1

    def leave(self, parcel: Parcel) -> Parcel:
        """Take out :attr:`first`, or :attr:`oldest`, and return it."""
        group = self._groups[parcel.priority]
        assert group[0] is parcel
        group.popleft()
        self._length -= 1
        if not group:
            del self._groups[parcel.priority]
            self._priorities.remove(parcel.priority)
        return parcel

    def holds_in_front(self, parcel: Parcel) -> bool:
        """Whether this is the first of its priority here."""
        group = self._groups.get(parcel.priority)
        return group is not None and group[0] is parcel

    def clear(self) -> None:
        self._groups.clear()
        self._priorities.clear()
        self._length = 0

    def _group(self, priority: int) -> deque[Parcel]:
        group = self._groups.get(priority)
        if group is None:
            group = self._groups[priority] = deque()
            bisect.insort(self._priorities, priority, key=neg)
        return group


class PartedLine:
    """A waiting line of which some step aside while the master has no room for them: for the master only.

    For engines the order is that of all; who stepped aside is recalled when the master may have room again.
    """

    def __init__(self) -> None:
        self._at_hand = WaitingLine()
        self._aside = WaitingLine()

    def __repr__(self) -> str:
        return f"<PartedLine: {self._at_hand!r}, aside {self._aside!r}>"

    def __len__(self) -> int:
        return len(self._at_hand) + len(self._aside)

    def __bool__(self) -> bool:
        return bool(self._at_hand or self._aside)

    def __iter__(self) -> Iterator[Parcel]:
        yield from self._at_hand
        yield from self._aside

    @property
    def at_hand(self) -> WaitingLine:
        """Those for which the master may have room."""
        return self._at_hand

    @property
    def first(self) -> Parcel:
        """The one that goes next; the line is not empty."""
        if not self._aside:
            return self._at_hand.first
        firsts = [line.first for line in (self._at_hand, self._aside) if line]
        return min(firsts, key=lambda parcel: (-parcel.priority, parcel.offered_at))

    @property
    def oldest(self) -> Parcel:
        """The one that has waited longest; the line is not empty."""
        if not self._aside:
            return self._at_hand.oldest
        return min((line.oldest for line in (self._at_hand, self._aside) if line), key=_offered_at)

    def join(self, parcel: Parcel) -> None:
        self._at_hand.join(parcel)

    def rejoin(self, parcel: Parcel) -> None:
        self._at_hand.rejoin(parcel)

    def leave(self, parcel: Parcel) -> Parcel:
        """Take out :attr:`first` or :attr:`oldest`, of all or of those at hand, and return it."""
        line = self._aside if self._aside and self._aside.holds_in_front(parcel) else self._at_hand
        return line.leave(parcel)

    def step_aside(self, parcel: Parcel) -> bool:
        """The master has no room for this one, the first or the oldest at hand; return whether others may pass."""
        if len(self._aside) >= MAX_ASIDE:
            return False
        self._aside.rejoin(self._at_hand.leave(parcel))
        return True

    def recall(self) -> None:
        """The master may have room again."""
        while self._aside:
            self._at_hand.rejoin(self._aside.leave(self._aside.first))

    def clear(self) -> None:
        self._at_hand.clear()
        self._aside.clear()
