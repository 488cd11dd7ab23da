"""Which messages go when the backlog is full and their stream says that they may.

             room is needed           written
    READY  ────────────────► SHEDDING ───────► GONE, with a record and an outcome; its id is free again
    DELAYED                  (its room is free)

Rules:

- Only streams with ``when_full = "shed"``, and only for a newcomer of the same stream. What an engine holds stays.
- The lowest priority goes first, and of one priority the oldest; nothing that has a higher priority than the newcomer.
- All or nothing: where that does not make enough room, nothing is shed and the newcomer is refused. Dead letters are
  nobody's to shed, so while they fill their share nothing is.
- Until the record is written the message is still on the disk: a master that is killed then has it again.

Pure, as the ledger, and over the same books.
"""

from __future__ import annotations

from itertools import islice

from harmonicio.master.backlog.books import Books
from harmonicio.master.backlog.entry import Entry

#: A newcomer for which more than so many would have to go is refused.
MAX_SHED_AT_ONCE = 1_000


class Shedding:
    """Makes room in a full backlog."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def __repr__(self) -> str:
        return f"<Shedding of {self._books!r}>"

    def can_help(self, stream: str) -> bool:
        """Whether room could be made for some message of this stream."""
        book = self._books.find(stream)
        return book is not None and not self._books.budget.is_full_of_dead and book.first_to_shed() is not None

    def make_room(self, stream: str, size_bytes: int, priority: int) -> list[Entry]:
        """Take what has to go for a message; none when that would not help. :meth:`Ledger.shed` follows for each."""
        book = self._books.find(stream)
        if book is None or not self.can_help(stream):
            return []
        budget = self._books.budget
        chosen: list[Entry] = []
        for entry in islice(book.to_shed(), MAX_SHED_AT_ONCE):
            if entry.priority > priority:
                break
            chosen.append(entry)
            budget.leave(entry)
            if budget.refusal(size_bytes) is None:
                for each in chosen:
                    self._books.shed(each)
                return chosen
        for entry in chosen:
            budget.come_back(entry)
        return []
