"""How a stream goes: nothing new is taken, all of it leaves stable storage, and only then it is forgotten and answered.

drop ──► reception takes nothing more ──► what is being put has been ──► store.drop_stream ──flush──► …
                                                                             └── not written: all is still there
… ──► ledger.drop_stream, subscribers, answer

Puts go first because one that lands behind the deletion would be there again when the master is killed.
"""

from __future__ import annotations

import threading
from functools import partial

from harmonicio.core.errors import Conflict, StorageError
from harmonicio.master.backlog.base import BacklogStore, Callback
from harmonicio.master.backlog.clerk import Clerk
from harmonicio.master.backlog.ledger import Ledger
from harmonicio.master.backlog.notifier import Notifier
from harmonicio.master.backlog.reception import Reception
from harmonicio.master.backlog.written import wait_until_written


class StreamRemoval:
    """Deletes streams from the backlog.

    Args:
        lock: Guards the ledger.
    """

    def __init__(
        self,
        lock: threading.Lock,
        ledger: Ledger,
        store: BacklogStore,
        reception: Reception,
        clerk: Clerk,
        notifier: Notifier,
    ) -> None:
        self._lock = lock
        self._ledger = ledger
        self._store = store
        self._reception = reception
        self._clerk = clerk
        self._notifier = notifier

    def __repr__(self) -> str:
        return f"<StreamRemoval from {self._ledger!r}>"

    def drop(self, stream: str, *, is_forced: bool) -> None:
        """Delete a stream, as :meth:`~harmonicio.master.backlog.backlog.Backlog.drop_stream` says."""
        with self._lock:
            waiting, arriving = self._ledger.books.waiting(stream), self._reception.locked_arriving(stream)
            dead = self._ledger.books.dead(stream)
            if (waiting or arriving or dead) and not is_forced:
                raise Conflict(
                    f"Messages of stream {stream!r} wait in the backlog: {waiting}; on their way into it: {arriving}; "
                    f"dead letters: {dead}.",
                    hint="End its sources and let the messages be processed, or use force to delete them all.",
                )
            self._reception.locked_drop_stream(stream)
            before_sequence = self._ledger.draw_sequence()
        wait_until_written(
            partial(self._write, stream, before_sequence), partial(self._dropped, stream, before_sequence)
        )

    def _write(self, stream: str, before_sequence: int, on_done: Callback) -> None:
        write = partial(self._store.drop_stream, stream, before_sequence, on_done)
        self._reception.after_puts(stream, before_sequence, write)

    def _dropped(self, stream: str, before_sequence: int, error: StorageError | None) -> None:
        if error is not None:
            return
        with self._lock:
            policy = self._ledger.books.policy(stream)
            self._ledger.drop_stream(stream, before_sequence)
            if self._reception.locked_takes(stream):  # It was declared again while the disk was slow.
                self._ledger.set_policy(stream, policy)
            subscribers = self._clerk.locked_subscribers(stream)
        for message_id, on_final in subscribers:
            on_final(message_id, None)
        self._notifier.changed(stream)
        self._clerk.room_freed()
