"""The pages of all streams together with the budget: what is entered, buried or removed is so in both.

What decides over entries works on the same books: :mod:`~harmonicio.master.backlog.ledger` over the life of a message,
:mod:`~harmonicio.master.backlog.dead_letters` over what people do with those that were given up, and
:mod:`~harmonicio.master.backlog.shedding` over what goes when the backlog is full.

Pure, as the ledger: no I/O, no clock, no lock.
"""

from __future__ import annotations

from collections.abc import Container

from harmonicio.control.messages import BacklogFigures
from harmonicio.master.backlog.budget import Budget, LedgerLimits
from harmonicio.master.backlog.entry import BURIED, WAITING, Entry, RetryPolicy, State
from harmonicio.master.backlog.stream_book import StreamBook


class Books:
    """Every entry of the backlog, and what they take."""

    def __init__(self, limits: LedgerLimits) -> None:
        self.budget = Budget(limits)
        self._by_stream: dict[str, StreamBook] = {}

    def __repr__(self) -> str:
        return f"<Books of {len(self._by_stream)} streams: {self.budget!r}>"

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, stream: str) -> StreamBook:
        """Return the page of a stream, a new one where there is none."""
        book = self._by_stream.get(stream)
        if book is None:
            book = self._by_stream[stream] = StreamBook()
        return book

    def find(self, stream: str) -> StreamBook | None:
        return self._by_stream.get(stream)

    def of(self, entry: Entry) -> StreamBook:
        """Return the page on which an entry stands."""
        return self._by_stream[entry.stream]

    def drop(self, stream: str, before_sequence: int) -> int:
        """Forget a stream with its entries that arrived before this sequence; return how many these were."""
        book = self.open(stream)
        entries = [entry for entry in book.ids.values() if entry.sequence < before_sequence]
        for entry in entries:
            self.remove(entry)
        if not book.ids:
            del self._by_stream[stream]
        return len(entries)

    def streams(self) -> list[str]:
        """Return the streams of which there are messages."""
        return [stream for stream, book in self._by_stream.items() if book.ids]

    # ── entries ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def enter(self, entry: Entry) -> None:
        """Enter an entry for which room was admitted."""
        self.open(entry.stream).enter(entry)
        self.budget.enter(entry)

    def bury(self, entry: Entry, death_bytes: int) -> None:
        """Make a dead letter of an entry, of whose death the record takes so many bytes."""
        entry.death_bytes = death_bytes
        self.of(entry).move(entry, State.DEAD)
        self.budget.bury(entry)

    def revive(self, entry: Entry) -> None:
        self.of(entry).move(entry, State.READY)
        self.budget.unbury(entry)

    def absolve(self, entry: Entry) -> None:
        self.of(entry).move(entry, State.SETTLING)
        self.budget.unbury(entry)

    def shed(self, entry: Entry) -> None:
        """An entry is being shed; it has left the budget."""
        self.of(entry).move(entry, State.SHEDDING)

    def remove(self, entry: Entry) -> None:
        if entry.state in BURIED:
            self.budget.unbury(entry)
        if entry.state is not State.SHEDDING:
            self.budget.leave(entry)
        self.of(entry).move(entry, State.GONE)

    def prioritise(self, stream: str, message_id: str, priority: int) -> Entry | str:
        """Give a message that waits another priority; return its entry, or why it keeps its own."""
        entry = self.entry(stream, message_id)
        if entry is None:
            return "It is not in the backlog."
        if entry.state in (State.READY, State.DELAYED):
            self.of(entry).prioritise(entry, priority)
            return entry
        if entry.state in BURIED:
            return "It is a dead letter: replay it first."
        if entry.state is State.RESERVED:
            return f"Engine {entry.engine} has it."
        return "It is just being written: try again."

    # ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────

    def entry(self, stream: str, message_id: str) -> Entry | None:
        """Return the entry of a message that waits, is being stored, or is dead."""
        book = self._by_stream.get(stream)
        return None if book is None else book.ids.get(message_id)

    def ids(self, stream: str) -> Container[str]:
        """Return the ids of the messages of a stream."""
        book = self._by_stream.get(stream)
        return () if book is None else book.ids

    def policy(self, stream: str) -> RetryPolicy:
        """Return how a stream's messages are retried."""
        book = self._by_stream.get(stream)
        return RetryPolicy() if book is None else book.policy

    def depth(self, stream: str) -> int:
        """Return how many messages of the stream could be given out at once."""
        book = self._by_stream.get(stream)
        return 0 if book is None else book.counts[State.READY]

    def next_size(self, stream: str) -> int | None:
        """Return the payload size of the message that would be reserved next; None when nothing is ready."""
        book = self._by_stream.get(stream)
        entry = None if book is None else book.next_ready()
        return None if entry is None else entry.size_bytes

    def put_off_size(self, stream: str) -> int | None:
        """Return the payload size of the message that is recalled next; None when there is none."""
        book = self._by_stream.get(stream)
        entry = None if book is None else book.next_put_off()
        return None if entry is None else entry.size_bytes

    def count(self, *states: State) -> int:
        """Return how many messages of all streams are in these states."""
        return sum(book.count(*states) for book in self._by_stream.values())

    def waiting(self, stream: str) -> int:
        """Return how many messages of the stream are on stable storage and still to be processed."""
        book = self._by_stream.get(stream)
        return 0 if book is None else len(book.waiting)

    def is_storing(self, stream: str, before_sequence: int) -> bool:
        """Whether the store is writing a message of the stream that arrived before this sequence."""
        book = self._by_stream.get(stream)
        return book is not None and book.is_storing(before_sequence)

    def dead(self, stream: str) -> int:
        """Return how many dead letters the stream has."""
        book = self._by_stream.get(stream)
        return 0 if book is None else book.count(*BURIED)

    def figures(self, stream: str, wall: float) -> BacklogFigures:
        book = self._by_stream.get(stream) or StreamBook()
        oldest = next(iter(book.oldest(1)), None)
        return BacklogFigures(
            stream=stream,
            ready=book.count(State.READY, State.DELAYED),
            reserved=book.count(State.RESERVED, State.SETTLING),
            dead=book.count(*BURIED),
            waiting_bytes=book.size_bytes(*WAITING),
            oldest_age_s=0.0 if oldest is None else max(0.0, wall - oldest.put_at),
            stored_total=book.stored_total,
            done_total=book.done_total,
            late_total=book.late_total,
            shed_total=book.shed_total,
        )
