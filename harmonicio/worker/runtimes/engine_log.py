"""The log of an engine that is a process: a file that is bounded, and read after its marks.

    <engine's folder>/engine.log     being written, through the engine's standard output
                      engine.log.1   what was set aside last; its first line says at which byte of the log it begins

When ``engine.log`` has more than ``MAX_LOG_BYTES`` it is copied aside and emptied, because the engine keeps it open;
lines written during the copy may be lost. Who reads must not do so meanwhile.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from harmonicio.control.log_messages import LogPart
from harmonicio.core.printable import one_line
from harmonicio.worker.runtimes.log_pieces import LogPiece, first_line, last_bytes, open_file, part_of

_log = logging.getLogger(__name__)

LOG_NAME, OLDER_NAME = "engine.log", "engine.log.1"
MAX_LOG_BYTES = 10_000_000
MAX_LINE_LENGTH = 400
#: What an engine logs when nothing is wrong.
_IN_ORDER = re.compile(r"\d{4}-\d\d-\d\d \S+ INFO harmonicio\.")


def open_log(folder: Path) -> int:
    """Return a descriptor that appends to the log in an engine's folder."""
    return os.open(folder / LOG_NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def bound_log(folder: Path) -> None:
    """Set the older part of a log that has become too long aside."""
    path = folder / LOG_NAME
    try:
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_size > MAX_LOG_BYTES:
            _set_aside(path, folder / OLDER_NAME)
    except FileNotFoundError:
        return  # The engine was forgotten meanwhile.
    except OSError as error:
        _log.warning("The log %s could not be shortened: %s", path, error)


def _set_aside(path: Path, older: Path) -> None:
    copy = older.with_suffix(".new")
    copy.unlink(missing_ok=True)
    with (
        open(open_file(path, os.O_RDWR), "r+b") as log,
        open(open_file(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as kept,
    ):
        kept.write(first_line(_start_of_log(older)))
        shutil.copyfileobj(log, kept)
        kept.flush()
        copy.replace(older)
        os.truncate(log.fileno(), 0)


def _start_of_log(older: Path) -> int:
    """Return at which byte ``engine.log`` begins: where that ends which was set aside."""
    with suppress(OSError), LogPiece(older) as piece:
        return piece.end
    return 0


@contextmanager
def _opened(folder: Path) -> Iterator[list[LogPiece]]:
    """Open all that is left of a log, oldest first."""
    with ExitStack() as opened:
        pieces = []
        with suppress(OSError):
            pieces.append(opened.enter_context(LogPiece(folder / OLDER_NAME)))
        start = pieces[0].end if pieces else 0
        pieces.append(opened.enter_context(LogPiece(folder / LOG_NAME, start)))
        yield pieces


def log_part(folder: Path, after: str, max_bytes: int, *, has_ended: bool) -> LogPart:
    """Return the part of the log in an engine's folder after a mark, or its end.

    When it cannot be read, the end says why.
    """
    try:
        with _opened(folder) as pieces:
            return part_of(pieces, after, max_bytes, has_ended=has_ended)
    except FileNotFoundError:
        return LogPart("", "0", has_ended)
    except OSError as error:
        return LogPart("" if after else _unreadable(error), "0", has_ended)


def whole_log(folder: Path, max_bytes: int) -> bytes:
    """Return the end of the log in an engine's folder as a file that is kept, whatever can be said of it."""
    try:
        with _opened(folder) as pieces:
            start, log = last_bytes(pieces, max_bytes)
    except OSError as error:
        start, log = 0, _unreadable(error).encode()
    return first_line(start) + log


def _unreadable(error: OSError) -> str:
    return f"The log cannot be read: {error.strerror or error}."


def last_line(folder: Path) -> str:
    """Return the last words of the log in an engine's folder."""
    return last_words(log_part(folder, "", 8192, has_ended=True).text)


def last_words(log: str) -> str:
    """Return the last line that says anything, as one short printable text; nothing when all was in order by then."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    line = lines[-1] if lines else ""
    return "" if _IN_ORDER.match(line) else one_line(line)[:MAX_LINE_LENGTH]
