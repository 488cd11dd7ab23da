"""Logs of engines: files that are bounded, read at their end, and kept for a while after their engine.

An engine appends to ``engine.log`` through its standard output. When that has more than ``MAX_LOG_BYTES`` it is copied
to ``engine.log.1`` and emptied, because the engine keeps it open; lines written during the copy may be lost.

The folder is the engine's, which can put anything in place of its log: a link, or a pipe that never says anything.
Nobody waits for such a thing, or reads it.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import stat
from pathlib import Path

from harmonicio.core.printable import one_line

_log = logging.getLogger(__name__)

LOG_NAME = "engine.log"
MAX_LOG_BYTES = 10_000_000
MAX_KEPT_LOGS = 20
MAX_KEPT_LOG_BYTES = 1_000_000
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
            _set_aside(path, path.with_suffix(".log.1"))
    except FileNotFoundError:
        return  # The engine was forgotten meanwhile.
    except OSError as error:
        _log.warning("The log %s could not be shortened: %s", path, error)


def _set_aside(path: Path, older: Path) -> None:
    older.unlink(missing_ok=True)
    with (
        open(_open_file(path, os.O_RDWR), "r+b") as log,
        open(_open_file(older, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as kept,
    ):
        shutil.copyfileobj(log, kept)
        os.truncate(log.fileno(), 0)


def _open_file(path: Path, flags: int) -> int:
    """Return a descriptor of a regular file; everything else is an OSError, at once."""
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "It is not a file")
    return file


def log_tail(path: Path, last_bytes: int) -> str:
    """Return the end of a log as text, whole lines where there are several; empty when there is no log.

    When it cannot be read, the text says why.
    """
    try:
        with open(_open_file(path, os.O_RDONLY), "rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - last_bytes))
            tail = log.read(last_bytes)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"The log cannot be read: {error.strerror or error}."
    return _whole_lines(tail, is_cut=size > last_bytes)


def tail_of(log: bytes, last_bytes: int) -> str:
    """Return the end of a log that is in memory, likewise."""
    return _whole_lines(log[-last_bytes:], is_cut=len(log) > last_bytes)


def _whole_lines(tail: bytes, *, is_cut: bool) -> str:
    if is_cut and b"\n" in tail:
        tail = tail.partition(b"\n")[2]
    return tail.decode("utf-8", "replace")


def last_line(folder: Path) -> str:
    """Return the last words of the log in an engine's folder."""
    return last_words(log_tail(folder / LOG_NAME, 8192))


def last_words(log: str) -> str:
    """Return the last line that says anything, as one short printable text; nothing when all was in order by then."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    line = lines[-1] if lines else ""
    return "" if _IN_ORDER.match(line) else one_line(line)[:MAX_LINE_LENGTH]


class LogArchive:
    """The ends of the logs of the last engines that have ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"<LogArchive {self._folder}>"

    def keep(self, engine: str, text: str) -> None:
        """Keep the end of an engine's log, and drop the oldest ones that are kept."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with open(
            os.open(self._path(engine), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as kept:
            kept.write(text)
        by_age = sorted(self._folder.glob("*.log"), key=lambda path: path.stat().st_mtime_ns)
        for path in by_age[:-MAX_KEPT_LOGS]:
            path.unlink(missing_ok=True)

    def has(self, engine: str) -> bool:
        return self._path(engine).exists()

    def tail(self, engine: str, last_bytes: int) -> str:
        return log_tail(self._path(engine), last_bytes)

    def _path(self, engine: str) -> Path:
        return self._folder / f"{engine}.log"
