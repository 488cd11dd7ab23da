"""One stream's page of the ledger: its entries by id, what is ready in order, and gauges that follow from the states.

Rules:

- Every change of state goes through :meth:`StreamBook.move`, so the gauges cannot differ from the entries.
- What is ready lies in a heap of whole numbers, priority above sequence, so that the smallest is the next. An entry
  that stops being ready stays in the heap until it comes to the top, where its state tells that it is stale; when
  stale numbers prevail, the heap is made anew.
- What was put off lies in a heap of its own, too, so that it can be offered to whoever has room before its pause ends.
- In an ordered stream nothing is ready while another message is held by an engine, and nothing overtakes a message that
  is still being stored or waits for its next attempt: those lie in the heap, too.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, nsmallest
from itertools import chain, islice

from harmonicio.core.message import MAX_PRIORITY
from harmonicio.master.backlog.entry import BURIED, WAITING, Entry, RetryPolicy, State

#: Sequences stay below 2 ** 48: at a million messages a second that is nine years.
SEQUENCE_BITS = 48
_SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1
_STALE_ALLOWED = 1024
#: What lies in the heap: in an ordered stream also what holds up those behind it.
_READY, _IN_ORDER = (State.READY,), (State.STORING, State.DELAYED, State.READY)


class StreamBook:
    """Everything that the ledger knows of one stream."""

    def __init__(self) -> None:
        self.ids: dict[str, Entry] = {}
        #: By sequence, in the order in which they were stored; dead letters are not among them.
        self.waiting: dict[int, Entry] = {}
        #: By sequence, the dead letters.
        self.buried: dict[int, Entry] = {}
        #: By sequence, those that the store is writing.
        self._storing: dict[int, Entry] = {}
        self.counts = [0] * len(State)
        self.sizes_bytes = [0] * len(State)
        self.stored_total = 0
        self.done_total = 0
        self.late_total = 0
        #: Whether ``waiting`` lies in the order of arrival; what comes back from the dead is at its end.
        self._is_in_order = True
        self._ready: list[int] = []
        self._put_off: list[int] = []
        self.policy = RetryPolicy()

    def __repr__(self) -> str:
        shown = ", ".join(f"{state.name.lower()}={self.counts[state]}" for state in State if self.counts[state])
        return f"<StreamBook {shown or 'empty'}>"

    @property
    def policy(self) -> RetryPolicy:
        return self._policy

    @policy.setter
    def policy(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._in_heap = _IN_ORDER if policy.is_ordered else _READY
        self._make_heap()

    def enter(self, entry: Entry) -> None:
        """Enter a new message, in state STORING."""
        entry.state = State.STORING
        self.ids[entry.message_id] = entry
        self._storing[entry.sequence] = entry
        self.counts[State.STORING] += 1
        self.sizes_bytes[State.STORING] += entry.size_bytes
        if State.STORING in self._in_heap:
            self._push(entry)

    def move(self, entry: Entry, state: State) -> None:
        """Change an entry's state."""
        self.counts[entry.state] -= 1
        self.sizes_bytes[entry.state] -= entry.size_bytes
        before, entry.state = entry.state, state
        if before is State.STORING:
            del self._storing[entry.sequence]
        elif before in BURIED and state not in BURIED:
            del self.buried[entry.sequence]
        if state is State.GONE:
            self.waiting.pop(entry.sequence, None)
            del self.ids[entry.message_id]
            return
        self.counts[state] += 1
        self.sizes_bytes[state] += entry.size_bytes
        if state in WAITING:
            self._is_in_order = not self.waiting or (self._is_in_order and before not in BURIED)
            self.waiting[entry.sequence] = entry
        else:
            self.waiting.pop(entry.sequence, None)
        if state in BURIED:
            self.buried[entry.sequence] = entry
        if state in self._in_heap:
            self._push(entry)
        if state is State.DELAYED and entry.is_put_off:
            self._push_put_off(entry)

    def next_ready(self) -> Entry | None:
        """Return the next ready entry, by priority and then arrival, and leave it where it is."""
        if self._policy.is_ordered and self.counts[State.RESERVED]:
            return None
        while self._ready:
            sequence = self._ready[0] & _SEQUENCE_MASK
            entry = self.waiting.get(sequence) or self._storing.get(sequence)
            if entry is not None and entry.state in self._in_heap:
                return entry if entry.state is State.READY else None
            heappop(self._ready)
        return None

    def next_put_off(self) -> Entry | None:
        """Return what would be the next ready entry if nothing had been put off; None if that was not put off."""
        while self._put_off:
            entry = self.waiting.get(self._put_off[0] & _SEQUENCE_MASK)
            if entry is not None and entry.state is State.DELAYED and entry.is_put_off:
                ready = self.next_ready()
                return entry if ready is None or _key(entry) < _key(ready) else None
            heappop(self._put_off)
        return None

    def oldest(self, limit: int) -> list[Entry]:
        """Return what waits in the order of arrival, so many of them."""
        if self._is_in_order:
            return list(islice(self.waiting.values(), limit))
        return [self.waiting[sequence] for sequence in nsmallest(limit, self.waiting)]

    def count(self, *states: State) -> int:
        return sum(self.counts[state] for state in states)

    def size_bytes(self, *states: State) -> int:
        return sum(self.sizes_bytes[state] for state in states)

    def _push(self, entry: Entry) -> None:
        heappush(self._ready, _key(entry))
        if len(self._ready) > 2 * self.count(*self._in_heap) + _STALE_ALLOWED:
            self._make_heap()

    def _push_put_off(self, entry: Entry) -> None:
        heappush(self._put_off, _key(entry))
        if len(self._put_off) > 2 * self.count(State.DELAYED) + _STALE_ALLOWED:
            entries = self.waiting.values()
            self._put_off = [_key(each) for each in entries if each.state is State.DELAYED and each.is_put_off]
            heapify(self._put_off)

    def _make_heap(self) -> None:
        entries = chain(self.waiting.values(), self._storing.values())
        self._ready = [_key(entry) for entry in entries if entry.state in self._in_heap]
        heapify(self._ready)


def _key(entry: Entry) -> int:
    return (MAX_PRIORITY - entry.priority) << SEQUENCE_BITS | entry.sequence
