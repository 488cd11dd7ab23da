"""One stream's page of the ledger: its entries by id, what is ready in order, and gauges that follow from the states.

Rules:

- Every change of state goes through :meth:`StreamBook.move`, so the gauges cannot differ from the entries.
- What is ready lies in a heap of whole numbers, priority above sequence, so that the smallest is the next. An entry
  that stops being ready stays in the heap until it comes to the top, where its state tells that it is stale; when
  stale numbers prevail, the heap is made anew.
- In an ordered stream nothing is ready while another message is held by an engine, and nothing overtakes a message that
  waits for its next attempt: that one lies in the heap, too.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from harmonicio.core.message import MAX_PRIORITY
from harmonicio.master.backlog.entry import WAITING, Entry, RetryPolicy, State

#: Sequences stay below 2 ** 48: at a million messages a second that is nine years.
SEQUENCE_BITS = 48
_SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1
_STALE_ALLOWED = 1024


class StreamBook:
    """Everything that the ledger knows of one stream."""

    def __init__(self) -> None:
        self.policy = RetryPolicy()
        self.ids: dict[str, Entry] = {}
        #: By sequence, in the order in which they were stored; dead letters are not among them.
        self.waiting: dict[int, Entry] = {}
        self.counts = [0] * len(State)
        self.sizes_bytes = [0] * len(State)
        self.stored_total = 0
        self.done_total = 0
        self._ready: list[int] = []

    def __repr__(self) -> str:
        shown = ", ".join(f"{state.name.lower()}={self.counts[state]}" for state in State if self.counts[state])
        return f"<StreamBook {shown or 'empty'}>"

    def enter(self, entry: Entry) -> None:
        """Enter a new message, in state STORING."""
        entry.state = State.STORING
        self.ids[entry.message_id] = entry
        self.counts[State.STORING] += 1
        self.sizes_bytes[State.STORING] += entry.size_bytes

    def move(self, entry: Entry, state: State) -> None:
        """Change an entry's state."""
        self.counts[entry.state] -= 1
        self.sizes_bytes[entry.state] -= entry.size_bytes
        entry.state = state
        if state is State.GONE:
            self.waiting.pop(entry.sequence, None)
            del self.ids[entry.message_id]
            return
        self.counts[state] += 1
        self.sizes_bytes[state] += entry.size_bytes
        if state in WAITING:
            self.waiting[entry.sequence] = entry
        else:
            self.waiting.pop(entry.sequence, None)
        if state is State.READY or (state is State.DELAYED and self.policy.is_ordered):
            self._push(entry)

    def next_ready(self) -> Entry | None:
        """Return the next ready entry, by priority and then arrival, and leave it where it is."""
        is_ordered = self.policy.is_ordered
        if is_ordered and self.counts[State.RESERVED]:
            return None
        while self._ready:
            entry = self.waiting.get(self._ready[0] & _SEQUENCE_MASK)
            if entry is not None and entry.state is State.READY:
                return entry
            if entry is not None and entry.state is State.DELAYED and is_ordered:
                return None
            heappop(self._ready)
        return None

    def count(self, *states: State) -> int:
        return sum(self.counts[state] for state in states)

    def size_bytes(self, *states: State) -> int:
        return sum(self.sizes_bytes[state] for state in states)

    def _push(self, entry: Entry) -> None:
        heappush(self._ready, _key(entry))
        if len(self._ready) > 2 * self.counts[State.READY] + _STALE_ALLOWED:
            kept = (State.READY, State.DELAYED) if self.policy.is_ordered else (State.READY,)
            self._ready = [_key(entry) for entry in self.waiting.values() if entry.state in kept]
            heapify(self._ready)


def _key(entry: Entry) -> int:
    return (MAX_PRIORITY - entry.priority) << SEQUENCE_BITS | entry.sequence
