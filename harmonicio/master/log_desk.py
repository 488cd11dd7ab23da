"""Where logs are asked for and handed over: the log book under the master's lock, and the requests that wait for parts.

Workers hear of a wish by the request for desired engines that they keep open, so it reaches them at once.
"""

from __future__ import annotations

import secrets
import threading

from harmonicio.control.log_messages import MAX_LOG_WAIT_S, LogAnswer, LogPart, LogWish
from harmonicio.core.errors import PASSED_ON, NotFound, Unavailable
from harmonicio.master.held_requests import RETRY_AFTER_S, HeldRequests
from harmonicio.master.log_book import LogBook
from harmonicio.master.state import MasterState

#: Readers of logs that may wait at the same time; they take no place of the requests that workers keep open.
MAX_HELD_LOGS = 16
#: How long a worker may take, beyond the time for which the engine is waited for.
ANSWER_WITHIN_S = 5.0
MAX_REASON_LENGTH = 500
WHERE_LOGS_ARE = "Logs are kept on the host of the worker, in its data folder: engines and engine-logs."


class LogDesk:
    """Brings parts of logs from workers to those who read.

    Args:
        state: Knows which worker has an engine.
        changed: The master's lock; notified of every wish and answer.
    """

    def __init__(self, state: MasterState, changed: threading.Condition) -> None:
        self._state = state
        self._changed = changed
        self._book = LogBook()
        self._held = HeldRequests(changed, MAX_HELD_LOGS)

    def __repr__(self) -> str:
        return f"<LogDesk {self._book!r} {self._held!r}>"

    def read(self, engine: str, after: str, wait_s: float) -> LogPart:
        """Return what an engine has logged after a mark, as soon as there is something or ``wait_s`` seconds are over.

        Raises:
            InvalidInput: the mark cannot be one.
            NotFound: there is no such engine, or no log of it (any more).
            Unavailable: its worker does not answer, or too many read logs.
        """
        wish = LogWish(secrets.token_hex(8), engine, after, max(0.0, min(wait_s, MAX_LOG_WAIT_S)))
        with self._changed:
            worker = self._worker_of(engine)
            self._book.add(worker, wish)
            self._changed.notify_all()
            try:
                self._held.wait_for(lambda: self._is_settled(worker, wish), wish.wait_s + ANSWER_WITHIN_S)
                answer = self._book.answer_to(wish.wish)
            finally:
                self._book.drop(wish.wish)
        return _part(answer, engine, worker)

    def answer(self, worker: str, answer: LogAnswer) -> None:
        """A worker answers a wish.

        Raises:
            InvalidInput: the part is too long.
        """
        with self._changed:
            self._book.answer(worker, answer)
            self._changed.notify_all()

    def has_news(self, worker: str) -> bool:
        """Whether a worker has to be told of a wish; the lock is held."""
        return self._book.has_news(worker)

    def take(self, worker: str) -> tuple[LogWish, ...]:
        """Return the wishes to tell a worker now; the lock is held."""
        return self._book.take(worker)

    def stop_waiting(self) -> None:
        """Answer all who wait, and hold none any more: the service ends."""
        self._held.end()

    def _is_settled(self, worker: str, wish: LogWish) -> bool:
        return self._book.answer_to(wish.wish) is not None or self._state.directory.worker(worker) is None

    def _worker_of(self, engine: str) -> str:
        worker = self._state.directory.worker_of(engine)
        known = self._state.directory.worker(worker) if worker is not None else None
        if worker is None or known is None:
            if not self._state.is_settled:
                raise Unavailable(
                    f"Engine {engine!r} is not known yet.",
                    hint="The master has just started, and workers come back within seconds.",
                    retry_after_s=RETRY_AFTER_S,
                )
            raise NotFound(
                f"There is no engine {engine!r}, and none of this name has ended lately.",
                hint=f"See: harmonicio engine ls. {WHERE_LOGS_ARE}",
            )
        if known.is_lost:
            raise Unavailable(
                f"Worker {worker!r}, which has engine {engine!r}, does not report.",
                hint=f"See: harmonicio worker ls. {WHERE_LOGS_ARE}",
                retry_after_s=RETRY_AFTER_S,
            )
        return worker


def _part(answer: LogAnswer | None, engine: str, worker: str) -> LogPart:
    """Return what was answered, or raise why it was not."""
    if answer is None:
        raise Unavailable(
            f"Worker {worker!r} does not hand over the log of engine {engine!r}.",
            hint=f"Try again; its host may be busy, or the worker of an older version. {WHERE_LOGS_ARE}",
            retry_after_s=RETRY_AFTER_S,
        )
    if answer.part is None:
        kind = PASSED_ON.get(answer.code, Unavailable)
        raise kind(answer.text[:MAX_REASON_LENGTH], hint=answer.hint[:MAX_REASON_LENGTH])
    return answer.part
