"""Work that one session does for itself, in a bounded pool, never twice at the same time.

Anybody may :meth:`SessionTask.kick` it, from any thread and as often as they like, without waiting: kicks that come
while the work runs make it run once more. So a slow peer holds up only its own session.

A session is known to others before its greeting is on its way, and nothing may overtake that: kicks that come before
:meth:`SessionTask.begin` count, but start nothing.

      resting ──kick──► queued ──► running ──► resting
                                     │  ▲
                                     └──┘ kicked meanwhile
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor

from harmonicio.core.errors import ConnectionEnded

_log = logging.getLogger(__name__)


class SessionTask:
    """Runs ``work`` once for any number of kicks.

    Args:
        executor: Whose threads do the work; it raises RuntimeError only when it was shut down.
        work: Sends what is to be sent; a connection that has ended is no error, its reader notices.
        on_failure: Called when the work fails by a bug of ours, after which it is started no more: ends the
            connection, so that both ends treat what is under way as they do whenever one breaks.
    """

    def __init__(self, executor: Executor, work: Callable[[], None], on_failure: Callable[[], None]) -> None:
        self._executor = executor
        self._work = work
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._has_begun = False
        self._is_active = False
        self._is_kicked = False
        self._is_ended = False

    def __repr__(self) -> str:
        return f"<SessionTask {'active' if self._is_active else 'resting'}{', ended' if self._is_ended else ''}>"

    def begin(self) -> None:
        """The session is open: see that the work runs, now and whenever it is kicked."""
        with self._lock:
            self._has_begun = True
        self.kick()

    def kick(self) -> None:
        """See that the work runs once more, soon."""
        with self._lock:
            self._is_kicked = True
            if self._is_active or self._is_ended or not self._has_begun:
                return
            self._is_active = True
        try:
            self._executor.submit(self._run)
        except RuntimeError as error:  # The port ends: nothing has to be sent any more.
            _log.debug("A session's work is not started any more: %s", error)

    def end(self) -> None:
        """Start the work no more, and let go of whose it is."""
        with self._lock:
            self._is_ended = True
            # They hold each other: the collector of garbage comes late to what has lived for long.
            self._work = self._on_failure = _do_nothing

    def _run(self) -> None:
        while self._begin():
            try:
                self._work()
            except ConnectionEnded as error:
                _log.debug("A session has nobody to send to any more: %s", error)
            except Exception:  # noqa: BLE001  a bug in one session must not stop the others; it is logged
                _log.exception("A session's work failed; its connection ends")
                on_failure = self._on_failure
                self.end()
                on_failure()

    def _begin(self) -> bool:
        with self._lock:
            self._is_active = self._is_kicked and not self._is_ended
            self._is_kicked = False
            return self._is_active


def _do_nothing() -> None:
    """What is left to do for a session that has ended."""
