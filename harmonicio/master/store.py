"""What of the master survives a restart: streams, tokens, the ticket key and the epoch, in one SQLite file.

Messages are the backlog's; workers, engines and leases are rebuilt from reports. Every change is on stable storage
(WAL, synchronous FULL) before it is answered. To open what an earlier run has left writes nothing: a full disk is no
reason not to start, because what fills it can only leave it through a master that runs.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonicio.control import json_codec, tickets
from harmonicio.control.locked_folder import OWNER_ONLY_FILE
from harmonicio.control.lone_sqlite import lone_uri
from harmonicio.core.errors import ConfigurationError, StorageError
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration

SCHEMA_VERSION = 1
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS streams (name TEXT PRIMARY KEY, version INTEGER NOT NULL, declaration TEXT);
    CREATE TABLE IF NOT EXISTS tokens (
        name TEXT PRIMARY KEY, role TEXT NOT NULL, digest BLOB NOT NULL, created_at REAL NOT NULL
    );
"""


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token as it is kept: ``digest`` is the SHA-256 of its secret, ``created_at`` wall-clock seconds."""

    name: str
    role: Role
    digest: bytes
    created_at: float


class MasterStore:
    """The master's own database. Safe to use from several threads.

    Args:
        path: Its file.
        make_room: Called when the disk takes nothing, before the one other try.

    Raises:
        StorageError: the file cannot be opened, read or written.
        ConfigurationError: it was written by a newer version.
    """

    def __init__(self, path: Path, make_room: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._make_room = make_room
        self._lock = threading.Lock()
        with self._mapped():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY_FILE))
            os.chmod(path, OWNER_ONLY_FILE)
            self._database = sqlite3.connect(lone_uri(path), uri=True, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise

    def __repr__(self) -> str:
        return f"<MasterStore {self._path}>"

    def _prepare(self) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise ConfigurationError(
                f"{self._path} was written by a newer version of HarmonicIO.", hint="Use that version, or a new folder."
            )
        if version == SCHEMA_VERSION:
            return
        self._database.executescript(_SCHEMA)
        self._database.execute("INSERT OR IGNORE INTO facts VALUES ('ticket_key', ?)", (tickets.new_key(),))
        self._database.execute("INSERT OR IGNORE INTO facts VALUES ('epoch', '1')")
        self._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"The master's database {self._path} failed: {error}.") from error

    def _write(self, statement: str, *rows: Sequence[Any]) -> None:
        """Execute a statement for all rows, or for none; on a full disk once more when there may be room."""
        with self._lock, self._mapped():
            try:
                self._transact(statement, rows)
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
                    raise
                self._make_room()
                self._transact(statement, rows)

    def _transact(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(statement, rows)

    # ── facts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def ticket_key(self) -> str:
        """The key that tickets are signed with or derived from, as hex; drawn once."""
        return self._fact("ticket_key")

    @property
    def epoch(self) -> int:
        """Counts the times that all leases were revoked; restarts do not change it."""
        return int(self._fact("epoch"))

    def raise_epoch(self) -> int:
        """Count the epoch up and return it."""
        raise_by = "UPDATE facts SET value = CAST(CAST(value AS INTEGER) + ? AS TEXT) WHERE name = 'epoch'"
        self._write(raise_by, (1,))
        return self.epoch

    def _fact(self, name: str) -> str:
        with self._lock, self._mapped():
            (value,) = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
            return str(value)

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def streams(self) -> tuple[StreamDeclaration, ...]:
        """Return the declared streams, by name."""
        with self._lock, self._mapped():
            query = "SELECT declaration FROM streams WHERE declaration IS NOT NULL ORDER BY name"
            rows = self._database.execute(query).fetchall()
        return tuple(json_codec.loads(StreamDeclaration, text) for (text,) in rows)

    def last_version(self, stream: str) -> int:
        """Return the highest version that this name has ever had, also when the stream was deleted; else 0."""
        with self._lock, self._mapped():
            row = self._database.execute("SELECT version FROM streams WHERE name = ?", (stream,)).fetchone()
        return int(row[0]) if row else 0

    def put_stream(self, declaration: StreamDeclaration) -> None:
        values = (declaration.name, declaration.version, json_codec.dumps(declaration).decode())
        self._write("INSERT OR REPLACE INTO streams VALUES (?, ?, ?)", values)

    def drop_stream(self, stream: str) -> None:
        """Forget a stream's declaration; its version number stays used."""
        self._write("UPDATE streams SET declaration = NULL WHERE name = ?", (stream,))

    # ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def tokens(self) -> tuple[StoredToken, ...]:
        """Return all tokens, by name."""
        with self._lock, self._mapped():
            rows = self._database.execute("SELECT name, role, digest, created_at FROM tokens ORDER BY name").fetchall()
        return tuple(StoredToken(name, Role(role), digest, created_at) for name, role, digest, created_at in rows)

    def put_tokens(self, given: Iterable[StoredToken]) -> None:
        """Add tokens, all of them or none."""
        rows = [(token.name, token.role.value, token.digest, token.created_at) for token in given]
        self._write("INSERT INTO tokens VALUES (?, ?, ?, ?)", *rows)

    def drop_token(self, name: str) -> None:
        self._write("DELETE FROM tokens WHERE name = ?", (name,))

    def close(self) -> None:
        with self._lock, self._mapped():
            self._database.close()
