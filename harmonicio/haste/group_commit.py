"""Rows that several threads bring at the same time are committed together.

A commit costs an fsync or a round trip, a row next to nothing. Whoever has the turn commits what is first in line, his
own rows or those of others, until his own are answered; then the next one has it.

    rows ──► the line ──(the turn)──► one commit of what is first in line ──► to each the answers to his own

Who has waited for too long takes back what is still in line, and fails. What is being committed just then may be
committed all the same. That does no harm: whoever brings its message again is told of it, as the first row of a
message wins.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Generic, TypeVar

from harmonicio.core.errors import StorageError
from harmonicio.haste.feature_db.base import Answer

Row = TypeVar("Row")


class _Waiting(Generic[Row]):
    """A row in line, and what became of it."""

    __slots__ = ("answer", "row")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.answer: Answer | None = None


class GroupCommit(Generic[Row]):
    """Commits rows of several threads together.

    Args:
        commit: Commits rows, answering each; called by one thread at a time. What it raises is the answer to all.
        together: Says how many rows of a line, from the first on, it takes at a time; at least one.
        wait_s: How long a thread waits for its turn, the commits that it makes for others included. Then its own
            begins, or it fails.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Row]], Sequence[Answer]],
        together: Callable[[Sequence[Row]], int],
        *,
        wait_s: float = threading.TIMEOUT_MAX,
    ) -> None:
        self._commit = commit
        self._together = together
        self._wait_s = wait_s
        self._changed = threading.Condition()
        self._line: list[_Waiting[Row]] = []
        self._is_committing = False

    def __repr__(self) -> str:
        return f"<GroupCommit, {'committing' if self._is_committing else 'idle'}, {len(self._line)} rows waiting>"

    def commit(self, rows: Sequence[Row]) -> list[Answer]:
        """Commit rows, together with those of others; return the answer to each.

        Raises:
            StorageError: others were at it for too long.
        """
        mine, until = [_Waiting(row) for row in rows], time.monotonic() + self._wait_s
        with self._changed:
            self._line.extend(mine)
        try:
            while self._has_turn(mine, until):
                self._commit_first()
        except BaseException:
            self._take_back(mine)
            raise
        return [each.answer for each in mine if each.answer is not None]

    def _has_turn(self, mine: Sequence[_Waiting[Row]], until: float) -> bool:
        """Wait for the turn, and take it; return False when all of ``mine`` are answered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_committing or _is_answered(mine), until - time.monotonic())
            if _is_answered(mine):
                return False
            if time.monotonic() >= until:
                raise StorageError(f"Others have been committing feature rows for {self._wait_s:g} s.")
            self._is_committing = True
            return True

    def _commit_first(self) -> None:
        """Commit what is first in line, and give the turn back, whatever happens."""
        batch: list[_Waiting[Row]] = []
        answers: Sequence[Answer] = ()
        try:
            batch = self._take()
            answers = self._answers(batch)
        finally:
            self._finish(batch, answers)

    def _take(self) -> list[_Waiting[Row]]:
        with self._changed:
            size = self._together([each.row for each in self._line])
            batch, self._line = self._line[:size], self._line[size:]
            return batch

    def _take_back(self, mine: Sequence[_Waiting[Row]]) -> None:
        """Leave nothing in line for which nobody waits: while a disk stands still, that would become ever more."""
        with self._changed:
            taken = set(map(id, mine))
            self._line = [each for each in self._line if id(each) not in taken]

    def _answers(self, batch: Sequence[_Waiting[Row]]) -> list[Answer]:
        try:
            answers = self._commit([each.row for each in batch])
            return [answer for _, answer in zip(batch, answers, strict=True)]
        except Exception as error:  # noqa: BLE001  whoever waits for a row gets the error
            return [error] * len(batch)

    def _finish(self, batch: Sequence[_Waiting[Row]], answers: Sequence[Answer]) -> None:
        with self._changed:
            self._is_committing = False
            self._changed.notify_all()
            for each, answer in zip(
                batch, answers or repeat(StorageError("The rows were not committed.")), strict=False
            ):
                each.answer = answer


def _is_answered(waiting: Sequence[_Waiting[Row]]) -> bool:
    return all(each.answer is not None for each in waiting)
