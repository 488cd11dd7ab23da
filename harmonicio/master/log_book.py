"""Who wishes for a part of which log: each wish is told to its worker once, and lives until its reader goes.

    add ──► waiting ──take──► told ──answer──► answered ──► drop
               └────────────────┴── the reader has waited long enough ──► drop

So there are never more wishes, or parts of logs, than readers that wait.

Pure: no I/O, no clock, no locks.
"""

from __future__ import annotations

from dataclasses import dataclass

from harmonicio.control.log_messages import LOG_PART_BYTES, MAX_MARK_LENGTH, LogAnswer, LogWish
from harmonicio.core.errors import InvalidInput


@dataclass(slots=True)
class _Entry:
    worker: str
    wish: LogWish
    is_told: bool = False
    answer: LogAnswer | None = None


class LogBook:
    """The wishes of all who read a log now."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def __repr__(self) -> str:
        return f"<LogBook {len(self._entries)} wishes>"

    def add(self, worker: str, wish: LogWish) -> None:
        """Note what somebody wishes to have of a worker.

        Raises:
            InvalidInput: the mark cannot be one.
        """
        if len(wish.after) > MAX_MARK_LENGTH:
            raise InvalidInput("That is no mark of a log.", hint="Give the mark that came with the part before.")
        self._entries[wish.wish] = _Entry(worker, wish)

    def has_news(self, worker: str) -> bool:
        """Whether there is a wish that the worker has not been told."""
        return any(each.worker == worker and not each.is_told for each in self._entries.values())

    def take(self, worker: str) -> tuple[LogWish, ...]:
        """Return the wishes to tell a worker now."""
        found = [each for each in self._entries.values() if each.worker == worker and not each.is_told]
        for each in found:
            each.is_told = True
        return tuple(each.wish for each in found)

    def answer(self, worker: str, answer: LogAnswer) -> None:
        """Take in what a worker answers; nobody may wait for it any more.

        Raises:
            InvalidInput: it is longer than a part may be.
        """
        part = answer.part
        if part is not None and (len(part.text) > LOG_PART_BYTES or len(part.mark) > MAX_MARK_LENGTH):
            raise InvalidInput(f"A part of a log has at most {LOG_PART_BYTES} characters.")
        entry = self._entries.get(answer.wish)
        if entry is not None and entry.worker == worker:
            entry.answer = answer

    def answer_to(self, wish: str) -> LogAnswer | None:
        """Return what the worker has answered, once it has."""
        return self._entries[wish].answer

    def drop(self, wish: str) -> None:
        """Forget a wish, with what was answered."""
        self._entries.pop(wish, None)
