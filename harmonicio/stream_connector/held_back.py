"""Messages that are not sent for a while, so that they hold up no others: each has a time from which it may go again.

      refused again     ──► 50 ms, doubled each time
      cannot be read    ──► the same: its file, or the spool, may be there again later; longer where there are many,
                            because each try costs something
                            (in an ordered stream it stays in its place, and nothing else goes meanwhile)

What could not be read at its last try is known here wherever it is: waiting, held back or being tried again.

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
#: Of what cannot be read, no more than about so many are tried in a second.
READ_TRIES_PER_S = 200


class HeldBack:
    """Who may go again when.

    Args:
        jitter: Draws from 0 to 1, so that pauses differ.
    """

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._heap: list[tuple[float, int, Parcel]] = []  # by time; the number keeps parcels uncompared
        self._numbers = itertools.count()
        self._unread: dict[Parcel, None] = {}

    def __repr__(self) -> str:
        return f"<HeldBack: {len(self._heap)}, {len(self._unread)} not read>"

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Parcel]:
        return (parcel for _, _, parcel in self._heap)

    @property
    def next_at(self) -> float:
        """When the first of them may go again; there is one."""
        return self._heap[0][0]

    def pause_s(self, times: int, crowd: int = 0) -> float:
        """Return how long a message is held back that has been so many times already, one of such a crowd."""
        least_s = crowd / READ_TRIES_PER_S
        first_s, longest_s = max(HOLD_FIRST_S, least_s), max(HOLD_MAX_S, least_s)
        return delay_s(times, first_s=first_s, longest_s=longest_s, chance=self._jitter())

    def unread(self, parcel: Parcel, now: float) -> float:
        """It could not be read just now; return when that is to be tried again."""
        if not parcel.absences:
            parcel.away_since = now
        parcel.is_away = parcel.is_readable = False
        parcel.absences += 1
        self._unread[parcel] = None
        return now + self.pause_s(parcel.absences, len(self._unread))

    def settled(self, parcel: Parcel) -> None:
        """It has come to rest."""
        self._unread.pop(parcel, None)

    def unreadable_s(self, waited_for: int | None, now: float) -> float:
        """Return for how long none of so many messages could be read; the lock need not be held.

        Args:
            waited_for: None where all wait for any of them.
        """
        # Other threads may look, without the lock.
        since = [parcel.away_since for parcel in list(self._unread) if not parcel.is_readable]
        return now - max(since) if since and waited_for in (None, len(since)) else 0.0

    def put(self, parcel: Parcel, until: float) -> None:
        heapq.heappush(self._heap, (until, next(self._numbers), parcel))

    def take(self, now: float) -> Iterator[Parcel]:
        """Take out those who may go again."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]

    def clear(self) -> None:
        self._heap.clear()
        self._unread.clear()
