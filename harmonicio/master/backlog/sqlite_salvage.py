"""A damaged index is replaced by a new one with all that can still be read of it, and of the payload files.

    damaged index ──rows that can be read──┐
    payload files without a row ──labels───┴► rebuilt.part ──► rebuilt.sqlite ──► backlog.sqlite
                └── no label: quarantine/<n>/       damaged index: quarantine/<n>/

Rules:

- Nothing is thrown away: what cannot be read is put aside in ``quarantine``, for people to look at. Rows are found
  through the pages that point to them: where one of those is damaged, all rows below it are for people.
- It is the only place where a file without a row is adopted. So a message that was finished just before may be
  processed once more, which is better than one that is lost. Of several files of one message the latest counts: those
  before it are of puts that were refused.
- A rebuilt index counts from its renaming on; a start that finds one puts it in its place. A crash at any point before
  leaves the damaged index, and the next start begins anew.
- An index that cannot be read because of the disk (EIO) or the user's rights is not damaged: that is an error.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from harmonicio.core.errors import StorageError
from harmonicio.core.printable import counted
from harmonicio.master.backlog import sqlite_schema
from harmonicio.master.backlog.payload_files import PayloadFiles, sync_folder

_log = logging.getLogger(__name__)

#: Larger indexes are not read through at the start: damage in them shows when it is met, and has the next start do it.
CHECKED_MAX_BYTES = 256 * 1024**2
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
#: How SQLite's check says that it did not get a page, and why.
_ERROR_CODE = re.compile(r"error code[ =](\d+)")
_CHECKS = 5
_SUFFIXES = ("", "-wal", "-shm")
#: So many ranges of rows are tried, which takes a minute or two; damage beyond that is given up.
_MAX_RANGES = 1_000_000
_MAX_KEY = 2**48
#: The tables with their keys, in the order of their columns.
_TABLES = {"entries": "sequence", "payloads": "sequence", "finished": "number", "shed": "number"}


class DamagedIndex(Exception):
    """The index is not what was written; says what was found."""


def check(connection: sqlite3.Connection, index: Path, files: PayloadFiles) -> None:
    """Look whether an open index is whole.

    Raises:
        DamagedIndex: it is not, or it is empty although there are payloads.
        sqlite3.Error: it cannot be read.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0 and files.sizes_bytes():
        raise DamagedIndex("it is empty, or was missing, although there are payloads")
    if version and (index.stat().st_size <= CHECKED_MAX_BYTES or _met(index).exists()):
        _read_through(connection)
    _met(index).unlink(missing_ok=True)


def _read_through(connection: sqlite3.Connection) -> None:
    """Have SQLite look at every page; what it finds is damage only if the disk did give it the pages.

    It says so for most of them, by an error code, but not for all: these it must find again and again.
    """
    for _ in range(_CHECKS):
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found == "ok":
            return
        code = _ERROR_CODE.search(found)
        if code is not None and int(code[1]) & 0xFF not in _DAMAGE:
            raise sqlite3.OperationalError(found)
    raise DamagedIndex(found.replace("\n", " "))


def check_folder(files: PayloadFiles, connection: sqlite3.Connection | None = None) -> None:
    """See that the folder of payloads is there where the index names files in it; without an index it must be.

    An empty one is what a share or a disk leaves that is not mounted. All messages in it would be dead letters.

    Raises:
        StorageError: it is not there.
        OSError, sqlite3.Error: that cannot be seen.
    """
    if files.is_there:
        return
    of_which = "and the index is damaged"
    if connection is not None:
        query = f"SELECT count(*) FROM entries WHERE size_bytes > {sqlite_schema.INLINE_MAX_BYTES}"
        (count,) = connection.execute(query).fetchone()
        if not count:
            return
        of_which = f"of which the index names {counted(count, 'payload')}"
    raise StorageError(
        f"The folder {files.folder} is missing, or nothing is in it, {of_which}.",
        hint="Mount it, or bring it back from where it is, and start again. If what was in it is lost, say so with "
        f"`mkdir -p {files.folder}/00`: its messages become dead letters then.",
    )


def note_damage(index: Path) -> None:
    """Have the next start read the index through, however large it is. Raises OSError."""
    _met(index).touch(mode=0o600)


def _met(index: Path) -> Path:
    """Return the file that says that damage was met in the index."""
    return index.with_name("damage-met")


@contextmanager
def telling_damage() -> Iterator[None]:
    """Raise ``DamagedIndex`` for what SQLite says of an index that is not what was written."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise DamagedIndex(str(error)) from error
        raise


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error means that the index is not what was written; reading it again would not help."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in _DAMAGE or "no such table" in str(error) or "no such column" in str(error)


def take_place(index: Path) -> None:
    """Put a rebuilt index into its place, if there is one. Raises OSError."""
    rebuilt = index.with_name("rebuilt.sqlite")
    if rebuilt.exists():
        for suffix in _SUFFIXES[1:]:
            index.with_name(index.name + suffix).unlink(missing_ok=True)
        os.replace(rebuilt, index)
        sync_folder(index.parent)


def rebuild(index: Path, files: PayloadFiles, why: str) -> list[str]:
    """Replace a damaged index; return what was done, in sentences.

    Raises:
        OSError, sqlite3.Error: the disk does not take it; the damaged index is left as it is.
    """
    aside = _put_aside(index)
    part = index.with_name("rebuilt.part")
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(part, isolation_level=None)) as new:
        new.execute("PRAGMA auto_vacuum = INCREMENTAL")
        sqlite_schema.prepare(new)
        new.execute("BEGIN")
        counts = {table: _copy(aside / index.name, new, table) for table in _TABLES}
        lost = _count_lost(new)
        adopted, unknown, unreadable = _adopt(new, files, aside)
        new.execute("COMMIT")
    os.replace(part, index.with_name("rebuilt.sqlite"))
    sync_folder(index.parent)
    take_place(index)
    return [
        f"The index was damaged ({why}) and was made anew. Read from it: {counts['entries']} of messages and dead "
        f"letters, {counts['finished']} of finished ids; rows of small messages that are known to be lost: {lost}. "
        f"Payload files: {counted(adopted, 'message was', 'messages were')} adopted from them, {unknown} told nothing "
        f"new, {unreadable} could not be read. What was damaged lies in {aside}."
    ]


def _put_aside(index: Path) -> Path:
    """Copy the names of the damaged files into a folder of their own, and flush that."""
    quarantine = index.with_name("quarantine")
    quarantine.mkdir(mode=0o700, exist_ok=True)
    aside = quarantine / str(
        1 + max((int(each.name) for each in quarantine.iterdir() if each.name.isdigit()), default=0)
    )
    aside.mkdir(mode=0o700)
    for suffix in _SUFFIXES:
        with suppress(FileNotFoundError):
            os.link(index.with_name(index.name + suffix), aside / (index.name + suffix))
    for folder in (aside, quarantine, index.parent):
        sync_folder(folder)
    return aside


def _copy(damaged: Path, new: sqlite3.Connection, table: str) -> int:
    """Copy the rows of a table that can be read; return how many. Raises sqlite3.Error when that cannot be written."""
    count = 0
    names = [each[0] for each in new.execute(f"SELECT * FROM {table} LIMIT 0").description]
    with closing(sqlite3.connect(damaged, isolation_level=None)) as old:
        old.text_factory = lambda raw: raw.decode("utf-8", "replace")
        for row in _rows(old, table):
            columns = ", ".join(names[: len(row)])  # Earlier formats have fewer.
            marks = ", ".join("?" * len(row))
            with suppress(sqlite3.IntegrityError):
                new.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", row)
                count += 1
    return count


def _count_lost(new: sqlite3.Connection) -> int:
    """Return of how many small messages one of the two rows was read, and the other could not be.

    Where both are lost nothing tells that there was a message.
    """
    queries = (
        "SELECT count(*) FROM payloads WHERE sequence NOT IN (SELECT sequence FROM entries)",
        f"SELECT count(*) FROM entries WHERE size_bytes <= {sqlite_schema.INLINE_MAX_BYTES}"
        " AND sequence NOT IN (SELECT sequence FROM payloads)",
    )
    return sum(int(new.execute(query).fetchone()[0]) for query in queries)


def _rows(old: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """Yield what can be read, one row at a time: behind a row that cannot be, what is left is halved until it can."""
    key = _TABLES[table]
    try:
        is_there = old.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    except sqlite3.DatabaseError:
        return  # Nothing can be read of it.
    if not is_there:  # It is empty, or of an earlier format: every range would be tried in vain.
        return
    ranges = [(0, _MAX_KEY)]
    for _ in range(_MAX_RANGES):
        if not ranges:
            return
        first, end = ranges.pop()
        try:
            rows = old.execute(f"SELECT * FROM {table} WHERE {key} >= ? AND {key} < ? ORDER BY {key}", (first, end))
            for row in rows:
                yield row
                first = max(first, row[0] + 1)
        except sqlite3.DatabaseError:
            if end - first > 1:
                middle = (first + end) // 2
                ranges += [(middle, end), (first, middle)]


def _adopt(new: sqlite3.Connection, files: PayloadFiles, aside: Path) -> tuple[int, int, int]:
    """Give a row to each payload file that has none and says whose it is; put the others aside.

    Returns how many were adopted, told nothing new, and could not be read: one bad sector does not stop the start.
    """
    known: set[int] = set()
    taken: set[tuple[str, str]] = set()
    for sequence, stream, message_id in new.execute("SELECT sequence, stream, message_id FROM entries"):
        known.add(sequence)
        taken.add((stream, message_id))
    adopted = unknown = unreadable = 0
    for sequence in sorted(files.sizes_bytes().keys() - known, reverse=True):
        try:
            entry = files.label(sequence)
        except OSError as error:
            _log.error("Payload file %d.bin cannot be read, and is put aside in %s: %s", sequence, aside, error)
            files.put_aside(sequence, aside)
            unreadable += 1
            continue
        if entry is None or entry.sequence != sequence or (entry.stream, entry.message_id) in taken:
            files.put_aside(sequence, aside)
            unknown += 1
            continue
        ids = (entry.stream, entry.message_id)
        if not new.execute(
            "SELECT 1 FROM finished WHERE stream = ? AND message_id = ? AND NOT is_shed", ids
        ).fetchall():
            new.execute(sqlite_schema.INSERT_ENTRY, sqlite_schema.entry_row(entry, None))
            taken.add(ids)
            adopted += 1
    return adopted, unknown, unreadable
