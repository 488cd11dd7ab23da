"""The one thread that writes the index: what has gathered while it was writing goes into its next transaction.

      any thread ──add──► gathering batch ──swap──► transaction ──flush──► callbacks, files removed
                                ▲                        │
                                └── more gathers ────────┘

The busier it is, the larger the groups; nothing ever waits for a timer. When a transaction fails, its puts get the
error, the ballast is given up, and the rest is tried once more: what is finished must be written even on a full disk,
or nothing would ever leave it.

A transaction whose flush has failed may lie in the log all the same, and would count after a crash. The next one that
succeeds takes its place there. So payload files of refused puts stay until then, and one is written for that alone
when there is nothing else to write.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from harmonicio.core.errors import StorageError
from harmonicio.master.backlog import sqlite_salvage
from harmonicio.master.backlog.ballast import Ballast
from harmonicio.master.backlog.base import Callback, StoreLimits
from harmonicio.master.backlog.payload_files import PayloadFiles
from harmonicio.master.backlog.sqlite_batch import Batch, BatchWriter
from harmonicio.master.backlog.sqlite_log import WriteAheadLog

_log = logging.getLogger(__name__)


class SqliteWriter:
    """Owns the writing connection and its thread.

    Args:
        connection: Closed by :meth:`close`; to the file ``index``.
        remove_files: Removes the payload files of these sequences, soon.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        index: Path,
        files: PayloadFiles,
        ballast: Ballast,
        limits: StoreLimits,
        remove_files: Callable[[list[int]], None],
    ) -> None:
        self._connection = connection
        self._index = index
        self._files = files
        self._ballast = ballast
        self._remove_files = remove_files
        self._batches = BatchWriter(connection, limits)
        self._log = WriteAheadLog(connection, index, limits.ballast_bytes)
        self._gathered = threading.Condition()
        self._batch = Batch()
        self._is_closing = False
        #: The kinds of errors since writing was last in order, each of which has been logged.
        self._troubles: set[str] = set()
        self._has_put_failed = False
        #: Payload files of puts that were refused, and whose rows may be in the log.
        self._doubtful: list[int] = []
        self._transactions = 0
        self._thread = threading.Thread(target=self._run, name="backlog-writer", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<SqliteWriter {'closing' if self._is_closing else 'open'}, {self._transactions} transactions>"

    @property
    def is_intact(self) -> bool:
        return self._thread.is_alive()

    def gather(self, add: Callable[[Batch], None]) -> bool:
        """Add to the batch that is written next; False when the writer has been closed."""
        with self._gathered:
            if self._is_closing:
                return False
            add(self._batch)
            self._gathered.notify()
            return True

    def close(self) -> None:
        """Write what has gathered, then end the thread and the connection. May be repeated."""
        with self._gathered:
            self._is_closing = True
            self._gathered.notify()
        self._thread.join()
        self._connection.close()

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while batch := self._take():
            try:
                error = self._write(batch)
                if error is not None:
                    error = self._write_without_puts(batch, error)
            except Exception as failed:  # noqa: BLE001  without this thread nobody would be answered any more
                error = storage_error("write to the backlog", failed)
                self._note_trouble(error)
            _call(batch.callbacks(), error)
            del batch  # Until more gathers, it would keep what it has written.

    def _take(self) -> Batch:
        """Return what has gathered; an empty batch means the end."""
        with self._gathered:
            self._gathered.wait_for(lambda: self._batch or self._is_closing)
            batch, self._batch = self._batch, Batch()
            self._batch.puts = batch.split_puts(self._log.transaction_max_bytes)
            return batch

    def _write(self, batch: Batch) -> StorageError | None:
        try:
            if batch.puts:
                self._ballast.hold()
                self._keep_log_short()
            self._files.sync_folders(batch.files_put())
            dropped = self._batches.write(batch)
        except Exception as error:  # noqa: BLE001  whatever it is, whoever waits must hear of it
            mapped = storage_error("write to the backlog", error)
            self._has_put_failed = self._has_put_failed or bool(batch.puts)
            self._note_trouble(mapped)
            return mapped
        self._transactions += 1
        doubtful, self._doubtful = self._doubtful, []
        is_tidy = self._tidy([*doubtful, *batch.files_removed(), *dropped])
        if is_tidy and self._troubles and (batch.puts or not self._has_put_failed):
            self._end_trouble()
        return None

    def _keep_log_short(self) -> None:
        if self._log.is_long:
            self._log.shorten()

    def _tidy(self, files: list[int]) -> bool:
        """Remove files that are not needed, keep the log short, and make room for the ballast where it was given up.

        All of it can wait, and what was written is written: whatever goes wrong here is no error of the batch.
        Returns whether nothing did.
        """
        try:
            self._remove_files(files)
            self._keep_log_short()
            if self._has_put_failed:
                self._log.give_back()
        except Exception as error:  # noqa: BLE001  it is logged, and tried again behind the next batch
            self._note_trouble(storage_error("tidy the backlog's index", error))
            return False
        return True

    def _write_without_puts(self, batch: Batch, error: StorageError) -> StorageError | None:
        self._doubtful += batch.files_put()
        puts, batch.puts = batch.puts, []
        _call((put.on_stored for put in puts), error)
        try:
            self._ballast.rest()
            self._keep_log_short()
        except Exception as failed:  # noqa: BLE001  what is finished is to be written all the same
            self._note_trouble(storage_error("give up the ballast", failed))
        return self._write(batch)

    def _note_trouble(self, error: StorageError) -> None:
        """Log each kind of error once until writing is in order again, not each write that fails."""
        kind = _kind(error)
        is_news = not isinstance(error.__cause__, BlockingIOError)  # The ballast rests, as it has been told.
        if is_news and kind not in self._troubles:
            self._troubles.add(kind)
            is_foreseen = isinstance(error.__cause__, (OSError, sqlite3.Error))
            _log.error("The backlog cannot be written: %s", error, exc_info=None if is_foreseen else error)
            self._note_damage(error)

    def _note_damage(self, error: StorageError) -> None:
        """Writing again does not help against damage in the index, and it stays until a start makes it anew."""
        if not (isinstance(error.__cause__, sqlite3.Error) and sqlite_salvage.is_damage(error.__cause__)):
            return
        _log.error("The index of the backlog is damaged: restart the master, which makes it anew from what can be read")
        try:
            sqlite_salvage.note_damage(self._index)
        except OSError as failed:
            _log.error("That it is damaged could not be noted for the next start: %s", failed)

    def _end_trouble(self) -> None:
        """Writing is in order: what failed has succeeded. On a full disk puts fail while all else can be written."""
        self._troubles.clear()
        self._has_put_failed = False
        _log.info("The backlog can be written again")


def storage_error(doing: str, error: Exception) -> StorageError:
    """Return a foreign error as one of ours."""
    if isinstance(error, StorageError):
        return error
    mapped = StorageError(f"Could not {doing}: {error}.", hint="Check the space and the health of the master's disk.")
    mapped.__cause__ = error
    return mapped


def _kind(error: StorageError) -> str:
    """Return what an error has in common with others of its kind: no names of files."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        return f"OSError {cause.errno}"
    return str(cause) if isinstance(cause, sqlite3.Error) else type(cause or error).__name__


def _call(callbacks: Iterable[Callback], error: StorageError | None) -> None:
    for callback in callbacks:
        try:
            callback(error)
        except Exception:  # noqa: BLE001  the others must still be called; it is logged
            _log.exception("A callback of the backlog's store failed")
