"""The durable member: an index in SQLite, small payloads inside it, large ones in files beside it.

put ─┬─ at most 64 KiB ──────────────────────────────────────────────► writer: one transaction for all that waits
     └─ larger ──► a file thread writes and flushes the file ────────►   └─ flush ──► on_stored
                   (or flushes the one that it arrived in)

FOLDER/backlog.sqlite, -wal          index
FOLDER/payloads/<2 hex>/<n>.bin      payloads
FOLDER/quarantine/<n>/               what was damaged
FOLDER/ballast                       space for the case that the disk is full
FOLDER/damage-met                    there while the next start has to read the index through
FOLDER/lock                          held while a process has the store open
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harmonicio.core.clock import Clock, SystemClock
from harmonicio.core.errors import Conflict, HarmonicIOError, StorageError
from harmonicio.core.message import Outcome
from harmonicio.master.backlog import sqlite_salvage, sqlite_schema
from harmonicio.master.backlog.ballast import Ballast
from harmonicio.master.backlog.base import (
    BacklogStore,
    Callback,
    MemoryPayload,
    PayloadLease,
    PendingPayload,
    Recovery,
    StoreLimits,
    damaged,
)
from harmonicio.master.backlog.byte_gate import ByteGate
from harmonicio.master.backlog.digest import is_intact
from harmonicio.master.backlog.entry import Death, Entry, Shed
from harmonicio.master.backlog.file_removal import FileRemoval
from harmonicio.master.backlog.hot_cache import HotCache
from harmonicio.master.backlog.outcome_codec import (
    KeptOutcome,
    decode_death,
    decode_outcome,
    encode_death,
    encode_outcome,
)
from harmonicio.master.backlog.payload_files import FilePayload, PayloadFiles
from harmonicio.master.backlog.payload_memory import PayloadMemory
from harmonicio.master.backlog.read_ahead import ReadAhead
from harmonicio.master.backlog.sqlite_batch import Batch, Burial, Change, Drop, Ending, Put
from harmonicio.master.backlog.sqlite_salvage import DamagedIndex
from harmonicio.master.backlog.sqlite_schema import INLINE_MAX_BYTES
from harmonicio.master.backlog.sqlite_writer import SqliteWriter, storage_error
from harmonicio.transport.thread_pool import ThreadPool

_log = logging.getLogger(__name__)

FILE_THREADS = 4
#: Payloads that are read into memory on their way, beside those of the hot cache; more are mapped files.
READING_BYTES = 128 * 1024**2


class SqliteStore(BacklogStore):
    """Keeps the backlog in a folder.

    Args:
        folder: Made when it is missing; one process at a time.
        limits: What may be in memory, and how much is remembered.
    """

    def __init__(self, folder: Path, limits: StoreLimits | None = None, clock: Clock | None = None) -> None:
        self._folder = folder
        self._limits = limits or StoreLimits()
        self._clock = clock or SystemClock()
        self._index = folder / "backlog.sqlite"
        self._files = PayloadFiles(folder / "payloads")
        self._ballast = Ballast(folder / "ballast", self._limits.ballast_bytes, self._limits.ballast_rest_s)
        self._memory = PayloadMemory()
        self._hot = HotCache(self._limits.hot_cache_bytes)
        self._gate = ByteGate(self._limits.pending_bytes)
        self._reading = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        self._writer: SqliteWriter | None = None
        self._threads: ThreadPool | None = None
        self._removal: FileRemoval | None = None
        self._ahead: ReadAhead | None = None
        self._lock_fd = -1

    def __repr__(self) -> str:
        memory = f"{self._hot!r}, {self._memory!r}, {self._gate!r}"
        return f"<SqliteStore in {self._folder}: {self._writer or 'closed'}, {memory}>"

    @property
    def is_intact(self) -> bool:
        return self._writer is not None and self._writer.is_intact

    @property
    def in_memory(self) -> tuple[int, int]:
        return self._hot.used_bytes, self._limits.hot_cache_bytes

    # ── opening and closing ──────────────────────────────────────────────────────────────────────────────────────────

    def recover(self) -> Recovery:
        self._acquire_lock()
        try:
            self._ballast.give_up()  # Whoever starts may need some space; the first put holds it again.
            recovery, connection = self._open_index()
            self._writer = SqliteWriter(
                connection, self._index, self._files, self._ballast, self._limits, self._remove_files
            )
        except HarmonicIOError:
            self.close()
            raise
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise storage_error(f"open the backlog in {self._folder}", error) from error
        return recovery

    def _open_index(self) -> tuple[Recovery, sqlite3.Connection]:
        sqlite_salvage.take_place(self._index)
        try:
            return self._open_and_load()
        except DamagedIndex as damage:
            sqlite_salvage.check_folder(self._files)
            self._files.prepare()
            repairs = sqlite_salvage.rebuild(self._index, self._files, str(damage))
        recovery, connection = self._open_and_load()
        return replace(recovery, repairs=(*repairs, *recovery.repairs)), connection

    def _open_and_load(self) -> tuple[Recovery, sqlite3.Connection]:
        with sqlite_salvage.telling_damage():
            connection = sqlite_schema.connect(self._index)
        try:
            with sqlite_salvage.telling_damage():
                sqlite_salvage.check(connection, self._index, self._files)
                sqlite_schema.prepare(connection)
                sqlite_salvage.check_folder(self._files, connection)
                self._files.prepare()
                recovery = sqlite_schema.load(connection, self._files, self._clock.wall())
            self._reader = sqlite_schema.connect(self._index)
            self._threads = ThreadPool(FILE_THREADS, "backlog-file")
            self._removal = FileRemoval(self._threads, self._files.remove)
            self._ahead = ReadAhead(self._files.fetch)
        except BaseException:
            connection.close()
            raise
        return recovery, connection

    def _acquire_lock(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error(f"open the backlog in {self._folder}", error) from error
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._release_lock()
            raise Conflict(
                f"Another process has the backlog in {self._folder} open.",
                hint="Stop the other master, or give this one a folder of its own.",
            ) from None

    def _release_lock(self) -> None:
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        self._gate.close()
        if self._threads is not None:
            self._threads.shutdown(wait=True)
        if self._ahead is not None:
            self._ahead.close()
        if self._writer is not None:
            self._writer.close()
        with self._reading:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()
        self._hot.clear()
        self._memory.rest(unused_for_s=0.0)
        self._release_lock()

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def new_payload(self, sequence: int, size_bytes: int, *, to_disk: bool) -> PendingPayload:
        try:
            if to_disk and size_bytes > INLINE_MAX_BYTES:
                self._ballast.hold()
                return self._files.allocate(sequence, size_bytes)
            return MemoryPayload(size_bytes, self._memory.take(size_bytes))
        except (OSError, MemoryError) as error:
            raise storage_error(f"make room for a payload of {size_bytes} bytes", error) from error

    def put(self, entry: Entry, payload: PendingPayload, on_stored: Callback, death: Death | None = None) -> None:
        waiting_bytes = 0 if payload.is_on_disk else entry.size_bytes
        try:
            self._gate.enter(waiting_bytes)
        except StorageError as error:
            payload.discard()
            on_stored(error)
            return
        is_hot = death is None and not payload.is_on_disk
        is_hot = is_hot and self._hot.offer(entry.sequence, entry.stream, payload.buffer)
        is_inline = entry.size_bytes <= INLINE_MAX_BYTES
        failure = None if death is None else encode_death(death)
        done = partial(self._put_done, entry, payload, waiting_bytes, on_stored)
        put = Put(entry, payload.buffer if is_inline else None, failure, done)
        if is_inline:
            self._put_row(put)
        else:
            self._submit(put, payload, is_hot)

    def _submit(self, put: Put, payload: PendingPayload, is_hot: bool) -> None:
        try:
            assert self._threads is not None
            self._threads.submit(self._put_file, put, payload, is_hot)
        except RuntimeError as error:  # The pool is closed: nobody writes the file later.
            put.on_stored(storage_error("store a message", error))

    def _put_file(self, put: Put, payload: PendingPayload, is_hot: bool) -> None:
        try:
            if isinstance(payload, FilePayload):
                payload.flush(put.entry)
                payload.keep()
            else:
                self._ballast.hold()
                self._files.write(put.entry, payload.buffer, is_read_soon=not is_hot)
        except Exception as error:  # noqa: BLE001  whatever it is, whoever waits must hear of it
            put.on_stored(storage_error(f"store the payload of message {put.entry.message_id!r}", error))
        else:
            self._put_row(put)

    def _put_row(self, put: Put) -> None:
        """Have the row written; from here on the writer decides over the file."""
        if self._writer is not None and self._writer.gather(lambda batch: batch.puts.append(put)):
            return
        if put.payload is None:
            self._files.remove(put.entry.sequence)
        put.on_stored(StorageError("The backlog's store is closed."))

    def _put_done(
        self,
        entry: Entry,
        payload: PendingPayload,
        waiting_bytes: int,
        on_stored: Callback,
        error: StorageError | None,
    ) -> None:
        """Tell how a put ended, and settle what its payload used."""
        self._gate.leave(waiting_bytes)
        if error is not None:
            self._hot.drop([entry.sequence])
            payload.discard()
        on_stored(error)

    def update(self, entry: Entry) -> None:
        self._gather(lambda batch: batch.updates.append(entry))

    def revise(self, entries: Sequence[Entry], on_done: Callback) -> None:
        self._gather(lambda batch: batch.revisions.append(Change(entries, on_done)), on_done)

    def bury(self, entry: Entry, death: Death, on_done: Callback) -> None:
        self._hot.drop([entry.sequence])
        burial = Burial(entry, encode_death(death), on_done)
        self._gather(lambda batch: batch.burials.append(burial), on_done)

    def revive(self, entries: Sequence[Entry], on_done: Callback) -> None:
        self._gather(lambda batch: batch.revivals.append(Change(entries, on_done)), on_done)

    def finish(self, entries: Sequence[Entry], outcome: Outcome, on_done: Callback) -> None:
        self._end(entries, outcome, 1, None, on_done)

    def shed(self, entry: Entry, record: Shed, outcome: Outcome, on_done: Callback) -> None:
        self._end([entry], outcome, 0, record, on_done)

    def _end(
        self, entries: Sequence[Entry], outcome: Outcome, attempts_more: int, shed: Shed | None, on_done: Callback
    ) -> None:
        self._hot.drop(entry.sequence for entry in entries)
        attempts = [entry.attempts + attempts_more for entry in entries]
        encoded = {each: encode_outcome(KeptOutcome(outcome, each)) for each in set(attempts)}
        ending = Ending(entries, [encoded[each] for each in attempts], self._clock.wall(), shed, on_done)
        self._gather(lambda batch: batch.endings.append(ending), on_done)

    def forget(self, entry: Entry, on_done: Callback) -> None:
        self._hot.drop([entry.sequence])
        self.purge([entry], on_done)

    def purge(self, entries: Sequence[Entry], on_done: Callback) -> None:
        self._gather(lambda batch: batch.purges.append(Change(entries, on_done)), on_done)

    def drop_stream(self, stream: str, before_sequence: int, on_done: Callback) -> None:
        self._hot.drop_stream(stream, before_sequence)
        self._gather(lambda batch: batch.drops.append(Drop(stream, before_sequence, on_done)), on_done)

    def prune(self, wall: float) -> None:
        self._files.tidy()
        self._memory.rest()
        self._gather(lambda batch: setattr(batch, "prune_at", wall))

    def make_room(self) -> None:
        try:
            self._ballast.rest()
        except OSError as error:
            raise storage_error("give up the ballast", error) from error

    def _gather(self, add: Callable[[Batch], None], on_done: Callback | None = None) -> None:
        """Have something written with the next batch; a closed store tells those who want to know."""
        if self._writer is not None and self._writer.gather(add):
            return
        if on_done is not None:
            on_done(StorageError("The backlog's store is closed."))

    def _remove_files(self, sequences: list[int]) -> None:
        self._hot.drop(sequences)  # At once: a disk that is slow to forget keeps no memory.
        if self._removal is not None:
            self._removal.soon(sequences)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, entry: Entry) -> PayloadLease:
        hot = self._hot.get(entry.sequence)
        if hot is not None:
            return PayloadLease(hot)
        if entry.size_bytes <= INLINE_MAX_BYTES:
            return self._read_inline(entry)
        try:
            return self._files.read(entry, self._memory, self._limits.hot_cache_bytes + READING_BYTES)
        except (OSError, MemoryError) as error:
            # A file that is not there, too: the disk or the share that it is on may come back.
            raise storage_error(f"read the payload of message {entry.message_id!r}", error) from error

    def read_ahead(self, entry: Entry) -> None:
        is_in_file = entry.size_bytes > INLINE_MAX_BYTES and self._hot.get(entry.sequence) is None
        if is_in_file and self._ahead is not None:
            self._ahead.fetch_soon(entry)

    def _read_inline(self, entry: Entry) -> PayloadLease:
        row = self._row("SELECT payload FROM payloads WHERE sequence = ?", entry.sequence)
        payload = None if row is None else row[0]
        if payload is None or not is_intact([payload], entry.digest):
            raise damaged(f"The payload of message {entry.message_id!r} is damaged on disk.")
        return PayloadLease(memoryview(payload))

    def outcome(self, stream: str, message_id: str) -> KeptOutcome | None:
        row = self._row(
            "SELECT outcome FROM finished WHERE stream = ? AND message_id = ? ORDER BY number DESC LIMIT 1",
            stream,
            message_id,
        )
        return None if row is None or row[0] is None else decode_outcome(row[0])

    def death(self, entry: Entry) -> Death | None:
        row = self._row("SELECT failure FROM entries WHERE sequence = ?", entry.sequence)
        return None if row is None or row[0] is None else decode_death(row[0])

    def shed_records(self, stream: str, limit: int) -> tuple[Shed, ...]:
        rows = self._rows(
            "SELECT stream, message_id, priority, size_bytes, shed_at, why FROM shed WHERE stream = ?"
            " ORDER BY number DESC LIMIT ?",
            stream,
            limit,
        )
        return tuple(Shed(*row) for row in rows)

    def _row(self, query: str, *values: object) -> tuple[bytes | None, ...] | None:
        rows = self._rows(query, *values)
        return rows[0] if rows else None

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return all rows at once, so that no read transaction stays open."""
        try:
            with self._reading:
                if self._reader is None:
                    raise StorageError("The backlog's store is not open.")
                return self._reader.execute(query, values).fetchall()
        except sqlite3.Error as error:
            mapped = storage_error("read from the backlog", error)
            mapped.retryable = not sqlite_salvage.is_damage(error)
            raise mapped from error


def create(folder: Path, limits: StoreLimits) -> SqliteStore:
    """Return a store in this folder."""
    return SqliteStore(folder, limits)
