"""Reads the logs of engines for those who wish for them at the master, in a thread of its own.

    wished for ──► looked at ──► there is something, the engine has ended, or the time is over ──► answered
                      ▲   │
                      └───┘ again and again

Rules:

- A runtime that is slow with a log holds up other logs only: neither engines nor reports wait for it.
- Nothing is kept but the wishes; where a reader is in a log stands in the mark that it comes with.
- At the end all are answered with what is there by then, so that readers see an engine's last words.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from harmonicio.control.log_messages import MAX_LOG_WAIT_S, LogAnswer, LogPart, LogWish
from harmonicio.core.errors import HarmonicIOError
from harmonicio.core.names import check_name

_log = logging.getLogger(__name__)

MAX_WISHES = 64
LOOK_EVERY_S = 0.4
#: A thread that a runtime or the master keeps waiting is not waited for longer than this.
JOIN_S = 2.0


class LogReader:
    """Answers wishes for logs.

    Args:
        read: Returns the part of an engine's log after a mark, without waiting for it.
        answer: Tells the master.
    """

    def __init__(self, read: Callable[[str, str], LogPart], answer: Callable[[LogAnswer], None]) -> None:
        self._read = read
        self._answer = answer
        self._changed = threading.Condition()
        self._wishes: dict[str, tuple[LogWish, float]] = {}
        self._has_news = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="worker-logs", daemon=True)

    def __repr__(self) -> str:
        return f"<LogReader {'closed' if self._is_closing else 'open'}, {len(self._wishes)} wishes>"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Answer what is wished for now, and end."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)

    def want(self, wishes: Iterable[LogWish]) -> None:
        """Somebody wishes for these parts."""
        now = time.monotonic()
        with self._changed:
            for wish in wishes:
                if len(self._wishes) < MAX_WISHES:
                    self._wishes[wish.wish] = wish, now + min(wish.wait_s, MAX_LOG_WAIT_S)
            self._has_news = True
            self._changed.notify_all()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing or self._wishes)
                self._changed.wait_for(lambda: self._is_closing or self._has_news, LOOK_EVERY_S)
                is_last, self._has_news = self._is_closing, False
                wishes = tuple(self._wishes.values())
            for wish, until in wishes:
                self._look(wish, is_time_over=is_last or time.monotonic() >= until)

    def _look(self, wish: LogWish, *, is_time_over: bool) -> None:
        answer = self._answer_to(wish)
        part = answer.part
        if part is not None and wish.after and not (part.text or part.is_over or is_time_over):
            return
        with self._changed:
            del self._wishes[wish.wish]
        try:
            self._answer(answer)
        except HarmonicIOError as error:  # Whoever waits asks again.
            _log.debug("A part of the log of engine %s could not be handed over: %s", wish.engine, error)

    def _answer_to(self, wish: LogWish) -> LogAnswer:
        try:
            return LogAnswer(wish.wish, self._read(check_name("engine", wish.engine), wish.after))
        except HarmonicIOError as error:
            return LogAnswer(wish.wish, code=error.code, text=error.text, hint=error.hint)
        except Exception as error:  # noqa: BLE001  a bug with one log must not end the reading of all; it is logged
            _log.exception("The log of engine %s cannot be read", wish.engine)
            return LogAnswer(
                wish.wish, text=f"The log cannot be read ({type(error).__name__}).", hint="See the worker's log."
            )
