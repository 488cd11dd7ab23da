"""The index of the SQLite store: its tables, how it is opened, and how it is read at start.

    entries     one row for each message that waits or is dead (a dead letter has a failure)
    payloads    the payload of each message of at most INLINE_MAX_BYTES; larger ones are files
    finished    messages finished not long ago, by number in that order, with their outcomes as long as these are kept
    shed        what was shed, by number in that order; format 2 has brought it

All are reached by a whole number that grows, so rows are appended at one end and mostly removed at the other.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from harmonicio.control.lone_sqlite import lone_uri
from harmonicio.core.errors import StorageError
from harmonicio.core.message import Failure
from harmonicio.core.printable import counted
from harmonicio.master.backlog.base import Recovery, first_few
from harmonicio.master.backlog.entry import Death, Entry, Finished
from harmonicio.master.backlog.outcome_codec import encode_death
from harmonicio.master.backlog.payload_files import PayloadFiles

#: Part of the format: it says where a payload is.
INLINE_MAX_BYTES = 64 * 1024
SCHEMA_VERSION = 2
_INCREMENTAL = 2

_SCHEMA = """
CREATE TABLE entries (
    sequence   INTEGER PRIMARY KEY,
    stream     TEXT    NOT NULL,
    message_id TEXT    NOT NULL,
    priority   INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    digest     BLOB    NOT NULL,
    section    BLOB    NOT NULL,
    attempts   INTEGER NOT NULL,
    crashes    INTEGER NOT NULL,
    is_suspect INTEGER NOT NULL,
    put_at     REAL    NOT NULL,
    failure    BLOB
);
CREATE TABLE payloads (
    sequence   INTEGER PRIMARY KEY,
    payload    BLOB    NOT NULL
);
CREATE TABLE finished (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    stream      TEXT    NOT NULL,
    message_id  TEXT    NOT NULL,
    digest      BLOB    NOT NULL,
    finished_at REAL    NOT NULL,
    outcome     BLOB
);
CREATE INDEX finished_by_id ON finished (stream, message_id);
"""
_SHED = """
CREATE TABLE shed (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    stream      TEXT    NOT NULL,
    message_id  TEXT    NOT NULL,
    priority    INTEGER NOT NULL,
    size_bytes  INTEGER NOT NULL,
    shed_at     REAL    NOT NULL,
    why         TEXT    NOT NULL
);
ALTER TABLE finished ADD COLUMN is_shed INTEGER NOT NULL DEFAULT 0;
"""
#: What brings an index of each format to the next one.
_STEPS = (_SCHEMA, _SHED)


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection with the store's guarantees: what is committed is flushed. Raises sqlite3.Error.

    To open an index that is there writes nothing, so that a full disk can be emptied.
    """
    connection = sqlite3.connect(lone_uri(path), uri=True, isolation_level=None, check_same_thread=False, timeout=10.0)
    try:
        if connection.execute("PRAGMA auto_vacuum").fetchone() != (_INCREMENTAL,):  # It would be written again.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # Counts for a new index only.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # sqlite_log.py sees to it.
        connection.execute("PRAGMA cache_size = -16384")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables where they are missing, also in an index of an earlier release.

    Raises:
        sqlite3.Error: the index cannot be read.
        StorageError: a newer release has written it.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise StorageError(
            f"The backlog was written by a newer release (format {version}, this one reads {SCHEMA_VERSION}).",
            hint="Start the newer release again.",
        )
    if version < SCHEMA_VERSION:
        steps = "".join(_STEPS[version:])
        connection.executescript(f"BEGIN; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def load(connection: sqlite3.Connection, files: PayloadFiles, wall: float) -> Recovery:
    """Read what an earlier run has left, and put right what does not fit together.

    A message whose payload file is missing or has another size becomes a dead letter; files without a row are removed.
    Raises sqlite3.Error and OSError.
    """
    failure = Failure("PayloadDamaged", "Its payload file is missing or incomplete.", retryable=False)
    lost = encode_death(Death(failure, wall))
    sizes_bytes = files.sizes_bytes()
    entries: list[Entry] = []
    dead: list[Entry] = []
    damaged: list[Entry] = []
    for *fields, death_bytes in connection.execute(
        "SELECT sequence, stream, message_id, priority, size_bytes, digest, section, attempts, crashes, is_suspect,"
        " put_at, coalesce(length(failure), 0) FROM entries ORDER BY sequence"
    ):
        entry = _entry(*fields)
        entry.death_bytes = death_bytes
        is_whole = entry.size_bytes <= INLINE_MAX_BYTES or sizes_bytes.pop(entry.sequence, -1) >= entry.size_bytes
        if not is_whole and not death_bytes:
            entry.death_bytes = len(lost)
            damaged.append(entry)
        (dead if entry.death_bytes else entries).append(entry)
    said = "The payload of {}/{!r} is damaged: it is a dead letter now."
    repairs = [*first_few([said.format(each.stream, each.message_id) for each in damaged])]
    connection.execute("BEGIN")
    connection.executemany(
        "UPDATE entries SET failure = ? WHERE sequence = ?", [(lost, entry.sequence) for entry in damaged]
    )
    connection.execute("COMMIT")
    for sequence in sizes_bytes:
        files.remove(sequence)
    if sizes_bytes:
        repairs.append(
            counted(len(sizes_bytes), "payload file without a message was", "payload files without a message were")
            + " removed."
        )
    rows = connection.execute("SELECT stream, message_id, digest, finished_at, is_shed FROM finished ORDER BY number")
    finished = tuple(Finished(*row, bool(is_shed)) for *row, is_shed in rows)  # type: ignore[call-arg]
    return Recovery(tuple(entries), tuple(dead), finished, tuple(repairs))


def entry_row(entry: Entry, death: bytes | None) -> tuple[Any, ...]:
    """Return an entry's row as ``INSERT_ENTRY`` wants it, with its counters as they are now; the death encoded."""
    return (
        entry.sequence,
        entry.stream,
        entry.message_id,
        entry.priority,
        entry.size_bytes,
        entry.digest,
        entry.section,
        entry.attempts,
        entry.crashes,
        entry.is_suspect,
        entry.put_at,
        death,
    )


INSERT_ENTRY = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def _entry(
    sequence: int,
    stream: str,
    message_id: str,
    priority: int,
    size_bytes: int,
    digest: bytes,
    section: bytes,
    attempts: int,
    crashes: int,
    is_suspect: int,
    put_at: float,
) -> Entry:
    return Entry(
        stream,
        message_id,
        sequence,
        size_bytes,
        priority=priority,
        digest=digest,
        section=section,
        attempts=attempts,
        crashes=crashes,
        is_suspect=bool(is_suspect),
        put_at=put_at,
    )
