"""Has payloads fetched from the disk before they are read: a thread of its own, so that no write waits behind it.

It is a hint: what comes while too much is waiting is dropped, and read when its turn comes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from harmonicio.master.backlog.entry import Entry
from harmonicio.transport.thread_pool import ThreadPool

#: What may wait to be fetched.
MAX_WAITING = 64


class ReadAhead:
    """Fetches payloads, one after the other.

    Args:
        fetch: Has one fetched; may block.

    Raises:
        Unavailable: its thread cannot be started.
    """

    def __init__(self, fetch: Callable[[Entry], None]) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._waiting = 0
        self._pool = ThreadPool(1, "backlog-ahead")

    def __repr__(self) -> str:
        return f"<ReadAhead: {self._waiting} to fetch>"

    def fetch_soon(self, entry: Entry) -> None:
        """Have this one fetched, if not too many wait for that already."""
        with self._lock:
            if self._waiting >= MAX_WAITING:
                return
            self._waiting += 1
        with suppress(RuntimeError):  # It is closed: nothing is read any more.
            self._pool.submit(self._fetch_now, entry)

    def _fetch_now(self, entry: Entry) -> None:
        try:
            self._fetch(entry)
        finally:
            with self._lock:
                self._waiting -= 1

    def close(self) -> None:
        """Wait for what is under way, and end the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)
