"""The log of a container, as the Docker engine hands it out: entries with the moment at which each was written.

An entry is a line, or the next 16 KiB of a longer one: then it has no line end, and the moment of the first of them.
The Docker engine can list the entries since a second, and the last ones; it knows no places in a log. So a place is:
the first ``count`` entries since a second have been taken.

- Several entries of one moment, and those of standard output and error that come in another order than they were
  written, count like all others, because the order of a list stays as it is.
- The second moves on behind what has been taken, one second late for those that come out of order, and not beyond the
  beginning of a line that has no end yet.

Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from harmonicio.control.log_messages import LogPart

#: So many entries are asked for first; most often all that is wanted is among them.
FEW_ENTRIES = 1_000
#: No frame is longer: entries are of 16 KiB, of some log drivers 256 KiB. What says more is no Docker engine's log.
MAX_FRAME_BYTES = 1024**2
_FRAME_HEADER_BYTES = 8
_NEVER = 2**63
_FULL, _PARTIAL = b"F", b"P"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What was written at once.

    Attributes:
        stamp: When, in RFC 3339, in UTC.
        output: 1 for standard output, 2 for standard error.
    """

    stamp: bytes
    output: int
    text: bytes

    @property
    def second(self) -> int:
        """When it was written, in whole seconds since 1970."""
        return _second(self.stamp[:19])

    @property
    def ends_line(self) -> bool:
        return self.text.endswith(b"\n")

    def as_line(self) -> bytes:
        """Return it as a line of a file: ``<stamp> <output> F|P <text>``."""
        kind = _FULL if self.ends_line else _PARTIAL
        return b"%s %d %s %s\n" % (self.stamp, self.output, kind, self.text.removesuffix(b"\n"))

    @classmethod
    def of_line(cls, line: bytes) -> LogEntry:
        """Return what :meth:`as_line` wrote."""
        stamp, output, kind, text = line.removesuffix(b"\n").split(b" ", 3)
        return cls(stamp, int(output), text + b"\n" if kind == _FULL else text)


#: Lists entries since a second, and of those the last ones; 0 for all.
Source = Callable[[int, int], Iterable[LogEntry]]


@lru_cache(maxsize=64)
def _second(stamp: bytes) -> int:
    return int(datetime.fromisoformat(f"{stamp.decode('ascii')}+00:00").timestamp())


def entries(chunks: Iterable[bytes]) -> Iterator[LogEntry]:
    """Return the entries in what the Docker engine sends: frames, each with a header (output, length) and a stamp.

    Raises:
        ValueError: it says that it cannot go on, or announces a frame that no Docker engine sends.
    """
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= _FRAME_HEADER_BYTES:
            end = _FRAME_HEADER_BYTES + int.from_bytes(buffer[4:8], "big")
            if end > MAX_FRAME_BYTES:
                raise ValueError(
                    f"The log has an entry of {end} bytes; the Docker engine sends {MAX_FRAME_BYTES} at most."
                )
            if len(buffer) < end:
                break
            stamp, _, text = bytes(buffer[_FRAME_HEADER_BYTES:end]).partition(b" ")
            if buffer[0] not in (1, 2):
                raise ValueError(text.decode("utf-8", "replace"))
            yield LogEntry(stamp, buffer[0], text)
            del buffer[:end]


def listed(kept: list[LogEntry]) -> Source:
    """Return a source of entries that are kept."""

    def source(since: int, last: int) -> list[LogEntry]:
        return [each for each in kept if each.second >= since][-last:]

    return source


def last_entries(source: Source, count: int, max_bytes: int) -> list[LogEntry]:
    """Return the last entries of a log, with so many bytes of text at most."""
    found: deque[LogEntry] = deque()
    size = 0
    for entry in source(0, count):
        found.append(entry)
        size += len(entry.text)
        while size > max_bytes:
            size -= len(found.popleft().text)
    return list(found)


def part_of(source: Source, after: str, max_bytes: int, *, has_ended: bool) -> LogPart:
    """Return the part of a log after a mark, or its end.

    Args:
        has_ended: Nothing will be written any more.
    """
    few = list(source(0, FEW_ENTRIES))
    since, count = _place(after) or (_NEVER, 0)
    if since > max((each.second for each in few), default=0):
        return _taken_last(source, few, max_bytes).part(is_over=has_ended)
    taken = _Taken(since, max_bytes)
    for at, entry in enumerate(_since(source, few, since)):
        if at >= count and not taken.has_room_for(entry):
            return taken.part(is_over=False)
        taken.take(entry, is_new=at >= count)
    return taken.part(is_over=has_ended)


def _taken_last(source: Source, few: list[LogEntry], max_bytes: int) -> _Taken:
    taken = _Taken(0, max_bytes)
    for entry in few:
        taken.take(entry)
    if _is_short_of(few, taken.since):  # So much has come lately: what counts begins before those few.
        taken = _Taken(taken.since, max_bytes)
        for entry in source(taken.floor, 0):
            taken.take(entry)
    return taken


def _since(source: Source, few: list[LogEntry], since: int) -> Iterable[LogEntry]:
    return source(since, 0) if _is_short_of(few, since) else [each for each in few if each.second >= since]


def _is_short_of(few: list[LogEntry], since: int) -> bool:
    return len(few) >= FEW_ENTRIES and few[0].second >= since


class _Taken:
    """The entries of a list that have been taken by now: how many of which second, and the last of their text."""

    def __init__(self, floor: int, max_bytes: int) -> None:
        self.floor = floor
        self._max_bytes = max_bytes
        self._seconds: list[int] = []
        self._open: dict[int, int] = {}
        self._texts: deque[bytes] = deque()
        self._size = 0

    def has_room_for(self, entry: LogEntry) -> bool:
        return not self._texts or self._size + len(entry.text) <= self._max_bytes

    def take(self, entry: LogEntry, *, is_new: bool = True) -> None:
        """Count an entry; of those that are new keep the text."""
        self._seconds.append(entry.second)
        if entry.ends_line:
            self._open.pop(entry.output, None)
        else:
            self._open.setdefault(entry.output, entry.second)
        if is_new:
            self._texts.append(entry.text)
            self._size += len(entry.text)
            while self._size > self._max_bytes and len(self._texts) > 1:
                self._size -= len(self._texts.popleft())

    @property
    def since(self) -> int:
        """From which second on entries have to be counted."""
        return max(self.floor, min((max(self._seconds, default=0) - 1, *self._open.values())))

    def part(self, *, is_over: bool) -> LogPart:
        since = self.since
        count = sum(second >= since for second in self._seconds)
        text = b"".join(self._texts)[-self._max_bytes :]
        return LogPart(text.decode("utf-8", "replace"), f"{since}.{count}", is_over)


def _place(mark: str) -> tuple[int, int] | None:
    since, _, count = mark.partition(".")
    is_one = mark.isascii() and since.isdigit() and count.isdigit() and len(mark) <= 30
    return (int(since), int(count)) if is_one else None
