"""What people do with dead letters: they are looked at in pages, and replayed or purged in steps.

                 replay, purge                 written: revived
    DEAD ──────────────────────► UNBURYING ──────────────────────► READY, no attempts and no crashes
      ▲                            │     │     written: purged
      └──────── not written ───────┘     └───────────────────────► GONE

While the store writes, a letter counts as dead: a master that is killed then finds it either dead or waiting. What
waits again has kept its id, its priority and its arrival. It stays a suspect if it was one, so that it runs alone.

Pure, as the ledger, and over the same books.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from harmonicio.master.backlog.books import Books
from harmonicio.master.backlog.entry import Entry, State


class DeadLetters:
    """The dead letters of all streams."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def __repr__(self) -> str:
        return f"<DeadLetters of {self._books!r}>"

    def count(self, stream: str) -> int:
        """Return how many dead letters a stream has."""
        return self._books.dead(stream)

    def page(self, stream: str, after: int, limit: int) -> list[Entry]:
        """Return dead letters in the order of their sequences, from the one after this sequence on.

        Sorting a million that are mostly in order takes some 30 ms; nobody pays for it but those who look.
        """
        book = self._books.find(stream)
        if book is None:
            return []
        order = sorted(book.buried)
        start = bisect_right(order, after)
        return [book.buried[sequence] for sequence in order[start : start + limit]]

    def named(self, stream: str, message_ids: Iterable[str]) -> list[Entry]:
        """Return those of these messages that are dead letters."""
        book = self._books.find(stream)
        found = [] if book is None else [book.ids.get(message_id) for message_id in dict.fromkeys(message_ids)]
        return [entry for entry in found if entry is not None and entry.state is State.DEAD]

    def take(self, entries: Iterable[Entry]) -> list[Entry]:
        """Take dead letters that are to be replayed or purged; return those that can be.

        :meth:`revived`, :meth:`purged` or :meth:`left` follows for all of them.
        """
        taken = [entry for entry in entries if entry.state is State.DEAD]
        for entry in taken:
            self._books.of(entry).move(entry, State.UNBURYING)
        return taken

    def revived(self, entries: Iterable[Entry]) -> None:
        """Those taken wait again, by what is on stable storage."""
        for entry in self._taken(entries):
            entry.attempts = entry.crashes = entry.times_put_off = 0
            entry.is_put_off = entry.is_timed_out = False
            entry.last_words = ""
            self._books.revive(entry)

    def purged(self, entries: Iterable[Entry]) -> None:
        """Those taken are gone from stable storage."""
        for entry in self._taken(entries):
            self._books.remove(entry)

    def left(self, entries: Iterable[Entry]) -> None:
        """Those taken could not be written: they are dead letters as before."""
        for entry in self._taken(entries):
            self._books.of(entry).move(entry, State.DEAD)

    def _taken(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return those that are still there: their stream may have been deleted meanwhile."""
        return [entry for entry in entries if entry.state is State.UNBURYING]
