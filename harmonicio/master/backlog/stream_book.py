"""One stream's page of the ledger: its entries by id, what is ready in order, and gauges that follow from the states.

Rules:

- Every change of state goes through :meth:`StreamBook.move`, so the gauges cannot differ from the entries.
- What is ready lies in a heap by priority, then arrival. What was put off lies in another one in the same order, so
  that it can be offered to whoever has room before its pause ends.
- In an ordered stream nothing is ready while another message is held by an engine, and nothing overtakes a message that
  is still being stored or waits for its next attempt: those lie in the heap, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nsmallest
from itertools import chain, islice

from harmonicio.core.message import MAX_PRIORITY, MIN_PRIORITY
from harmonicio.master.backlog.entry import BURIED, WAITING, Entry, RetryPolicy, State
from harmonicio.master.backlog.entry_heap import EntryHeap

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
        self.shed_total = 0
        #: Whether ``waiting`` lies in the order of arrival; what comes back from the dead is at its end.
        self._is_in_order = True
        self._ready = EntryHeap(_urgency, self._is_in_ready, self._find)
        self._put_off = EntryHeap(_urgency, _is_put_off, self._find)
        self._to_shed = EntryHeap(_worth, self._may_be_shed, self._find)
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
        self._ready.fill(chain(self.waiting.values(), self._storing.values()))
        self._to_shed.fill(self.waiting.values())

    def enter(self, entry: Entry) -> None:
        """Enter a new message, in state STORING."""
        entry.state = State.STORING
        self.ids[entry.message_id] = entry
        self._storing[entry.sequence] = entry
        self.counts[State.STORING] += 1
        self.sizes_bytes[State.STORING] += entry.size_bytes
        if State.STORING in self._in_heap:
            self._ready.push(entry)

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
        self._order(entry)

    def prioritise(self, entry: Entry, priority: int) -> None:
        """Give an entry that waits another place in the order."""
        entry.priority = priority
        self._order(entry)

    def _order(self, entry: Entry) -> None:
        """Have an entry stand where its state and priority say."""
        if entry.state in self._in_heap:
            self._ready.push(entry)
        if _is_put_off(entry):
            self._put_off.push(entry)
        if self._may_be_shed(entry):
            self._to_shed.push(entry)

    def next_ready(self) -> Entry | None:
        """Return the next ready entry, by priority and then arrival, and leave it where it is."""
        if self._policy.is_ordered and self.counts[State.RESERVED]:
            return None
        entry = self._ready.first()
        return None if entry is None or entry.state is not State.READY else entry

    def next_put_off(self) -> Entry | None:
        """Return what would be the next ready entry if nothing had been put off; None if that was not put off."""
        entry = self._put_off.first()
        if entry is None:
            return None
        ready = self.next_ready()
        return entry if ready is None or self._ready.number(entry) < self._ready.number(ready) else None

    def next_in_order(self, limit: int) -> list[Entry]:
        """Return what goes next, so many of them; in an ordered stream also what those behind it have to wait for."""
        return list(islice(self._ready.in_order(), limit))

    def first_to_shed(self) -> Entry | None:
        """Return what would go first if the backlog were full; None where nothing may."""
        return self._to_shed.first()

    def to_shed(self) -> Iterator[Entry]:
        """Return what may go if the backlog is full, in the order in which it does."""
        return self._to_shed.in_order()

    def oldest(self, limit: int) -> list[Entry]:
        """Return what waits in the order of arrival, so many of them."""
        if self._is_in_order:
            return list(islice(self.waiting.values(), limit))
        return [self.waiting[sequence] for sequence in nsmallest(limit, self.waiting)]

    def is_storing(self, before_sequence: int) -> bool:
        """Whether the store is writing a message that arrived before this sequence."""
        return any(sequence < before_sequence for sequence in self._storing)

    def count(self, *states: State) -> int:
        return sum(self.counts[state] for state in states)

    def size_bytes(self, *states: State) -> int:
        return sum(self.sizes_bytes[state] for state in states)

    def _find(self, sequence: int) -> Entry | None:
        return self.waiting.get(sequence) or self._storing.get(sequence)

    def _is_in_ready(self, entry: Entry) -> bool:
        return entry.state in self._in_heap

    def _may_be_shed(self, entry: Entry) -> bool:
        return self._policy.sheds and entry.state in (State.READY, State.DELAYED)


def _worth(entry: Entry) -> int:
    return entry.priority - MIN_PRIORITY


def _urgency(entry: Entry) -> int:
    return MAX_PRIORITY - entry.priority


def _is_put_off(entry: Entry) -> bool:
    return entry.is_put_off and entry.state is State.DELAYED
