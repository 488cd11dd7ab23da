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
