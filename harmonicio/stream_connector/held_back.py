"""Messages that are not sent for a while, so that they hold up no others: each has a time from which it may go again.

      refused again     ──► 50 ms, doubled each time
      cannot be read    ──► the same: its file, or the spool, may be there again later
                            (in an ordered stream it stays in its place, and nothing else goes meanwhile)

Pure: ``now`` is monotonic seconds.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator

from harmonicio.core.back_off import delay_s
from harmonicio.stream_connector.lanes import Parcel

#: How long a message is held back at first and, doubled each time, at most.
HOLD_FIRST_S, HOLD_MAX_S = 0.05, 5.0


class HeldBack:
    """Who may go again when.

    Args:
        jitter: Draws from 0 to 1, so that pauses differ.
    """

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._heap: list[tuple[float, int, Parcel]] = []  # by time; the number keeps parcels uncompared
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        return f"<HeldBack: {len(self._heap)}>"

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Parcel]:
        return (parcel for _, _, parcel in list(self._heap))  # Other threads may look, without the lock.

    @property
    def next_at(self) -> float:
        """When the first of them may go again; there is one."""
        return self._heap[0][0]

    def unreadable_s(self, unsafe: int, now: float) -> float:
        """Return for how long none of so many messages could be read; may be asked in a signal handler."""
        since = [parcel.away_since for parcel in self if parcel.absences]
        return now - max(since) if since and len(since) == unsafe else 0.0

    def until_s(self, times: int) -> float:
        """Return how long a message is held back that has been so many times already."""
        return delay_s(times, first_s=HOLD_FIRST_S, longest_s=HOLD_MAX_S, chance=self._jitter())

    def put(self, parcel: Parcel, until: float) -> None:
        heapq.heappush(self._heap, (until, next(self._numbers), parcel))

    def take(self, now: float) -> Iterator[Parcel]:
        """Take out those who may go again."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]

    def clear(self) -> None:
        self._heap.clear()
