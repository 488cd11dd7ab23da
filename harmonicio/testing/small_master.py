"""A master of a few lines, for tests of workers: it wants what a test says and remembers what it was told.

It is called like :class:`~harmonicio.control.client.MasterClient`, and needs neither sockets nor threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from harmonicio.control.log_messages import LogAnswer, LogWish
from harmonicio.control.messages import (
    Desired,
    DesiredEngines,
    EngineExit,
    EngineReport,
    ReportAnswer,
    WorkerRegistration,
    WorkerReport,
    WorkerWelcome,
)
from harmonicio.control.tickets import new_key
from harmonicio.core.engine import Availability
from harmonicio.core.errors import MasterUnavailable, NotFound
from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration

SEVERAL_SECONDS = 30.0


class SmallMaster:
    """One master for one worker at a time.

    Attributes:
        is_away: Every request fails, as when nothing listens.
        registrations, reports: What came, with the moment for reports.
        is_left: The worker has said goodbye.
        log_answers: What it answered to wishes for logs, by wish.
    """

    def __init__(self) -> None:
        self.url = "http://127.0.0.1:1"
        self.key = new_key()
        self.is_away = False
        self.registrations: list[WorkerRegistration] = []
        self.reports: list[tuple[float, WorkerReport]] = []
        self.exits: dict[str, EngineExit] = {}
        self.is_left = False
        self.log_answers: dict[str, LogAnswer] = {}
        self._wishes: tuple[LogWish, ...] = ()
        self._is_known = False
        self._desired = Desired(0, ())
        self._generation = 0
        self._changed = threading.Condition()

    def __repr__(self) -> str:
        state = "away" if self.is_away else "there"
        return f"<SmallMaster {state}, generation {self._desired.generation}, {len(self.reports)} reports>"

    # ── what a test says and asks ────────────────────────────────────────────────────────────────────────────────────

    def want(self, *streams: tuple[StreamDeclaration, int]) -> None:
        """Want so many engines of each stream, and of no other."""
        with self._changed:
            self._generation += 1
            self._desired = Desired(self._generation, tuple(DesiredEngines(*each) for each in streams))
            self._changed.notify_all()

    def want_log(self, wish: LogWish) -> LogAnswer:
        """Wish for a part of a log, and wait for the answer."""
        with self._changed:
            self.log_answers.pop(wish.wish, None)
            self._wishes = (*self._wishes, wish)
            self._changed.notify_all()
        self.wait_for(lambda: wish.wish in self.log_answers)
        return self.log_answers[wish.wish]

    def forget(self) -> None:
        """Be a master that was restarted: the worker is not known."""
        with self._changed:
            self._is_known = False
            self._changed.notify_all()

    def engines(self, *states: Availability) -> list[EngineReport]:
        """Return the engines of the last report, in one of these states if any are given."""
        with self._changed:
            last = self.reports[-1][1].engines if self.reports else ()
        return [each for each in last if not states or each.state in states]

    def wait_for(self, condition: Callable[[], object], timeout_s: float = SEVERAL_SECONDS) -> None:
        """Wait until something that reports bring about is so.

        Raises:
            TimeoutError: it is not so in time; shows the last report.
        """
        with self._changed:
            if not self._changed.wait_for(condition, timeout_s):
                last = self.reports[-1][1] if self.reports else None
                raise TimeoutError(f"Waited {timeout_s:g} s; the last report was {last}.")

    def wait_for_engines(self, count: int, *states: Availability) -> list[str]:
        """Wait until exactly so many engines are reported in one of these states; return their ids."""
        self.wait_for(lambda: len(self.engines(*states)) == count)
        return [each.engine for each in self.engines(*states)]

    # ── what a worker calls ──────────────────────────────────────────────────────────────────────────────────────────

    def register_worker(self, registration: WorkerRegistration) -> WorkerWelcome:
        with self._answering():
            self.registrations.append(registration)
            self._is_known, self.is_left = True, False
            return WorkerWelcome(0.5, self.key, Address("127.0.0.1", 1))

    def report(self, worker: str, report: WorkerReport) -> ReportAnswer:
        with self._answering():
            if not self._is_known:
                return ReportAnswer(is_known=False)
            self.reports.append((time.monotonic(), report))
            self.exits.update((each.engine, each) for each in report.exits)
            return ReportAnswer(is_known=True)

    def desired(self, worker: str, generation: int = 0, wait_s: float = 0.0) -> Desired:
        with self._answering():
            self._changed.wait_for(
                lambda: not self._is_known or self.is_away or self._desired.generation != generation or self._wishes,
                wait_s,
            )
            if self.is_away:
                raise MasterUnavailable("The master has gone away.")
            if not self._is_known:
                raise NotFound(f"There is no worker {worker!r}.")
            wishes, self._wishes = self._wishes, ()
            return replace(self._desired, logs=wishes)

    def answer_log(self, worker: str, answer: LogAnswer) -> None:
        with self._answering():
            self.log_answers[answer.wish] = answer

    def leave_worker(self, worker: str) -> None:
        with self._answering():
            self._is_known, self.is_left = False, True

    def close(self) -> None:
        """Let go of whoever waits."""
        self.forget()

    def _answering(self) -> _Answering:
        if self.is_away:
            raise MasterUnavailable("The master is away.")
        return _Answering(self._changed)


class _Answering:
    """Holds the lock, and tells everybody at the end."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed

    def __enter__(self) -> None:
        self._changed.acquire()

    def __exit__(self, *_: object) -> None:
        self._changed.notify_all()
        self._changed.release()
