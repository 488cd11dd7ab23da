"""A log as a row of bytes that are counted from its beginning, of which the last are left, in one file or in several.

    byte 0 ········· 10,000,000 ─────────── 20,000,123 ─── 20,400,000
       dropped          │ set aside, or kept │ being written │

A file that is kept begins with a line that says at which byte of its log it begins. So a place in a log is the same
number for as long as anything of it is left, whatever has been set aside or dropped in between.

The folder may be an engine's, which can put anything in place of a log: a link, or a pipe that never says anything.
Nobody waits for such a thing, or reads it.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from harmonicio.control.log_messages import LogPart

_MAX_DIGITS = 18


def open_file(path: Path, flags: int) -> int:
    """Return a descriptor of a regular file; everything else is an OSError, at once."""
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "It is not a file")
    return file


def first_line(start: int) -> bytes:
    """Return the first line of a file that keeps a log from this byte on."""
    return b"%d\n" % start


class LogPiece:
    """A file with a piece of a log, open until it is closed.

    Args:
        path: Where it is.
        start: At which byte of the log it begins; by default it says so itself.

    Attributes:
        start, end: The bytes of the log that it holds.

    Raises:
        OSError: it cannot be read, or does not say where it begins.
    """

    def __init__(self, path: Path, start: int | None = None) -> None:
        self._file = open_file(path, os.O_RDONLY)
        line = b"" if start is not None else os.pread(self._file, _MAX_DIGITS + 1, 0).partition(b"\n")[0]
        if start is None and not line.isdigit():
            self.close()
            raise OSError(errno.EINVAL, "It is not a log")
        self._skipped = len(line) + 1 if line else 0
        self.start = int(line) if start is None else start
        self.end = self.start + os.fstat(self._file).st_size - self._skipped

    def __repr__(self) -> str:
        return f"<LogPiece {self.start} to {self.end}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._file)

    def read(self, at: int, count: int) -> bytes:
        """Return bytes of the log; none where it begins later or has ended."""
        if not self.start <= at < self.end:
            return b""
        return os.pread(self._file, min(count, self.end - at), self._skipped + at - self.start)


def last_bytes(pieces: Sequence[LogPiece], count: int) -> tuple[int, bytes]:
    """Return the end of a log and at which byte that begins: whole lines where there are several."""
    end = pieces[-1].end
    at = max(pieces[0].start, end - count)
    data = _read(pieces, at, count)
    if at > pieces[0].start and b"\n" in data:
        data = data.partition(b"\n")[2]
    return end - len(data), data


def part_of(pieces: Sequence[LogPiece], after: str, max_bytes: int, *, has_ended: bool) -> LogPart:
    """Return the part of a log after a mark, or its end.

    Args:
        pieces: All that is left of it, oldest first.
        has_ended: Nothing will be written any more.
    """
    at = _place(after)
    if at is None:
        at, data = last_bytes(pieces, max_bytes)
    else:
        at = max(at, pieces[0].start) if at <= pieces[-1].end else pieces[-1].start
        data = _read(pieces, at, max_bytes)
    is_over = has_ended and at + len(data) >= pieces[-1].end
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, is_over)
    # A character of which only the first bytes are there belongs to the next part.
    return LogPart(text, str(at + len(data) - len(decoder.getstate()[0])), is_over)


def _read(pieces: Sequence[LogPiece], at: int, count: int) -> bytes:
    data = b""
    for piece in pieces:
        data += piece.read(at + len(data), count - len(data))
    return data


def _place(mark: str) -> int | None:
    return int(mark) if mark.isascii() and mark.isdigit() and len(mark) <= _MAX_DIGITS else None
