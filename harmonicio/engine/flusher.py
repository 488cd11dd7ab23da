"""Nothing waits unsent for long: one thread that watches the time, and a few that send.

A session sends for itself when its thread pauses. The flusher is for the rest: an outcome behind which a handler runs
for longer than 5 ms, credit that grew because of what happened elsewhere. It sends in a small pool, so that a peer
that does not read holds up nobody else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from harmonicio.core.errors import ConnectionEnded
from harmonicio.transport.thread_pool import ThreadPool

_log = logging.getLogger(__name__)

#: An outcome waits at most about this long for others to travel with.
OLDEST_UNSENT_S = 0.005
SENDING_THREADS = 8


class Flushable(Protocol):
    """What can be behind with sending."""

    @property
    def flush_due_at(self) -> float | None:
        """When the oldest unsent news will have waited for ``OLDEST_UNSENT_S``; None when there is none."""
        ...

    def checkpoint(self) -> None:
        """Send what waits; may block. Raises ConnectionEnded when nobody is there any more."""
        ...

    def cut(self) -> None:
        """End the connection, because what it should have been sent may be lost."""
        ...


class Flusher:
    """Flushes sessions that are behind.

    Args:
        review: Called at the moment that :meth:`review_at` named.
    """

    def __init__(self, review: Callable[[], None]) -> None:
        self._review = review
        self._watched: deque[Flushable] = deque()
        self._queued: set[Flushable] = set()
        self._lock = threading.Lock()
        self._awake = threading.Event()
        self._is_asleep = False
        self._is_closed = False
        self._review_at: float | None = None
        self._pool = ThreadPool(SENDING_THREADS, "engine-flush", is_ready=True)
        self._thread = threading.Thread(target=self._run, name="engine-flusher", daemon=True)

    def __repr__(self) -> str:
        return f"<Flusher: {len(self._queued)} sessions to flush{', closed' if self._is_closed else ''}>"

    @property
    def is_intact(self) -> bool:
        """Whether its thread is there."""
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def watch(self, session: Flushable) -> None:
        """Look at this session when ``OLDEST_UNSENT_S`` have gone by. Cheap: called for each batch."""
        self._watched.append(session)
        if self._is_asleep:
            self._awake.set()

    def review_at(self, time_s: float) -> None:
        """Review at this monotonic time, or before."""
        with self._lock:
            if self._review_at is not None and self._review_at <= time_s:
                return
            self._review_at = time_s
        self._awake.set()

    def flush_soon(self, session: Flushable) -> None:
        """Flush this session in another thread; once, however often this is said meanwhile."""
        with self._lock:
            if self._is_closed or session in self._queued:
                return
            self._queued.add(session)
            self._pool.submit(self._flush, session)

    def start_soon(self, work: Callable[[], None]) -> None:
        """Do something that may have to wait for a peer in another thread."""
        with self._lock:
            if not self._is_closed:
                self._pool.submit(_is_done, work)

    def close(self) -> None:
        """End the threads; what was queued is still sent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._awake.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._pool.shutdown(wait=True)

    def _flush(self, session: Flushable) -> None:
        with self._lock:
            self._queued.discard(session)
        if not _is_done(session.checkpoint):
            session.cut()

    def _run(self) -> None:
        while not self._is_closed:
            self._rest()
            _is_done(self._look)

    def _look(self) -> None:
        self._look_at_watched(time.monotonic())
        with self._lock:
            is_review_due = self._review_at is not None and self._review_at <= time.monotonic()
            if is_review_due:
                self._review_at = None
        if is_review_due:
            self._review()

    def _look_at_watched(self, now: float) -> None:
        for session in {self._watched.popleft() for _ in range(len(self._watched))}:
            due_at = session.flush_due_at
            if due_at is not None and due_at <= now:
                self.flush_soon(session)
            elif due_at is not None:
                self._watched.append(session)

    def _rest(self) -> None:
        """Sleep until something may be due."""
        self._is_asleep = True
        if not self._watched:
            review_at = self._review_at
            self._awake.wait(None if review_at is None else max(0.0, review_at - time.monotonic()))
        self._is_asleep = False
        self._awake.clear()
        if self._watched and not self._is_closed:
            time.sleep(OLDEST_UNSENT_S)


def _is_done(work: Callable[[], None]) -> bool:
    """Do this; return False when an error of ours, which is logged, has come between."""
    try:
        work()
    except ConnectionEnded as error:
        _log.debug("A session has nobody to send to any more: %s", error)
    except Exception:  # noqa: BLE001  a bug in one session must not stop the others; it is logged
        _log.exception("Something was not sent; the flusher goes on")
        return False
    return True
