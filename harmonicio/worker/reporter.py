"""Talks to the master: registers, reports, and asks what the worker shall run.

    thread "report"     register ──► report ──► wait (interval, or a change) ──► report …
                           ▲                       │ the master does not know us, or does not answer
                           └───── back off ◄───────┘
    thread "desired"    ask and be held until it changes ──► ask again …

Rules:

- A change is reported within the time that it allows, but reports are never less than ``SHORTEST_GAP_S`` apart.
- When the master does not answer, attempts become more seldom, up to ``LONGEST_DELAY_S``, by chance not all workers'
  at the same moment. Nothing else happens: engines do not depend on it.
- A report that the master cannot take, because it is too long or something in it is wrong, is sent again at once with
  less: without what handlers run, then without what ended engines held and said. Who is there is always told.
- What the master answers is handed on from these threads; nobody is called while a lock is held.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from harmonicio.control.log_messages import LogAnswer, LogWish
from harmonicio.control.messages import (
    Desired,
    ReportAnswer,
    WorkerRegistration,
    WorkerReport,
    WorkerWelcome,
)
from harmonicio.core.back_off import delay_s
from harmonicio.core.errors import ConnectionEnded, HarmonicIOError, InvalidInput, NotFound, Unavailable

_log = logging.getLogger(__name__)

SHORTEST_GAP_S = 0.05
POLL_WAIT_S = 20.0
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 5.0
#: A thread whose request is being held by a master that does not let go is not waited for longer than this.
JOIN_S = 2.0
#: How long the end of a worker may wait for the master.
LEAVE_WITHIN_S = 5.0


class Master(Protocol):
    """What the worker needs of :class:`~harmonicio.control.client.MasterClient`."""

    @property
    def url(self) -> str: ...

    def register_worker(self, registration: WorkerRegistration) -> WorkerWelcome: ...

    def report(self, worker: str, report: WorkerReport) -> ReportAnswer: ...

    def desired(self, worker: str, generation: int = 0, wait_s: float = 0.0) -> Desired: ...

    def answer_log(self, worker: str, answer: LogAnswer) -> None: ...

    def leave_worker(self, worker: str) -> None: ...

    def close(self) -> None: ...


class Reporter:
    """The worker's side of the control plane.

    Args:
        master: Used from two threads; closed with the reporter.
        registration: How the worker introduces itself.
        make_report: Returns the report with this number.
        on_welcome, on_desired, on_answered: Told what the master answered, on_answered with the report, too.
        on_logs_wanted: Told which logs somebody wishes to read.
    """

    def __init__(
        self,
        master: Master,
        registration: WorkerRegistration,
        *,
        make_report: Callable[[int], WorkerReport],
        on_welcome: Callable[[WorkerWelcome], None],
        on_desired: Callable[[Desired], None],
        on_answered: Callable[[WorkerReport, ReportAnswer], None],
        on_logs_wanted: Callable[[tuple[LogWish, ...]], None] = lambda _: None,
    ) -> None:
        self._master = master
        self._registration = registration
        self._make_report = make_report
        self._on_welcome = on_welcome
        self._on_desired = on_desired
        self._on_answered = on_answered
        self._on_logs_wanted = on_logs_wanted
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_registered = False
        self._due_at = 0.0
        self._sequence = 0
        self._is_abridged = False
        self._reporting = threading.Thread(target=self._report_for_ever, name="worker-report", daemon=True)
        self._asking = threading.Thread(target=self._ask_for_ever, name="worker-desired", daemon=True)

    def __repr__(self) -> str:
        state = "closed" if self._is_closing else "registered" if self._is_registered else "not registered"
        return f"<Reporter of {self._name!r} to {self._master.url}, {state}, {self._sequence} reports>"

    def start(self) -> None:
        self._reporting.start()
        self._asking.start()

    @property
    def is_intact(self) -> bool:
        return self._reporting.is_alive() and self._asking.is_alive()

    def report_within(self, seconds: float) -> None:
        """There is something new: report it within so many seconds."""
        with self._changed:
            self._due_at = min(self._due_at, time.monotonic() + seconds)
            self._changed.notify_all()

    def close(self, *, is_leaving: bool) -> None:
        """End the threads. With ``is_leaving``, tell the master the last news and that this worker is gone.

        A master that does not answer is given ``LEAVE_WITHIN_S``, whatever it has been asked.
        """
        with self._changed:
            if self._is_closing:
                return
            self._is_closing = True
            self._changed.notify_all()
        is_started = self._reporting.ident is not None
        too_late = threading.Timer(LEAVE_WITHIN_S, self._master.close)
        too_late.start()
        try:
            if is_started:
                self._reporting.join()
                if is_leaving and self._is_registered:
                    self._leave()
        finally:
            too_late.cancel()
            too_late.join()
            self._master.close()
        if is_started:
            self._asking.join(JOIN_S)
            if self._asking.is_alive():
                _log.debug("The master still holds a request of worker %r; it ends by itself.", self._name)

    @property
    def _name(self) -> str:
        return self._registration.worker

    def _leave(self) -> None:
        """Tell the master, which then lets go of the request that it holds."""
        try:
            self._report()
            self._master.leave_worker(self._name)
        except HarmonicIOError as error:
            _log.warning("The master was not told that worker %r ends: %s", self._name, error)

    # ── reporting ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _report_for_ever(self) -> None:
        pause = _Pause("report to the master")
        interval_s = 1.0
        while not self._is_closing:
            try:
                if not self._is_registered:
                    interval_s = self._register().report_interval_s
                self._set_registered(self._report())
                if self._is_registered:
                    pause.end()
                    self._wait_until_due(interval_s)
                    continue
                _log.info("The master does not know worker %r (any more).", self._name)
                self._sleep(pause.next_s(None))
            except HarmonicIOError as error:
                self._set_registered(self._is_registered and not isinstance(error, NotFound))
                self._sleep(pause.next_s(error))
            except Exception:  # noqa: BLE001  a bug in one report must not end all of them; it is logged
                _log.exception("A report of worker %r failed; the next one follows", self._name)
                self._sleep(pause.next_s(None))

    def _register(self) -> WorkerWelcome:
        welcome = self._master.register_worker(self._registration)
        self._on_welcome(welcome)
        return welcome

    def _report(self) -> bool:
        """Report; return whether the master knows this worker."""
        with self._changed:
            # What changes from here on is not in this report.
            self._due_at = float("inf")
            self._sequence += 1
        report = self._make_report(self._sequence)
        answer = self._send(report)
        if not answer.is_known:
            return False
        self._on_answered(report, answer)
        return True

    def _send(self, report: WorkerReport) -> ReportAnswer:
        """Send a report, or as much of it as the master takes."""
        try:
            answer = self._master.report(self._name, report)
            self._is_abridged = False
            return answer
        except InvalidInput as error:
            if not self._is_abridged:
                _log.warning("The master takes no whole reports, and gets shorter ones meanwhile: %s", error)
            self._is_abridged = True
        shorter = _without_running(report)
        try:
            return self._master.report(self._name, shorter)
        except InvalidInput:
            return self._master.report(self._name, _without_held(shorter))

    def _set_registered(self, is_registered: bool) -> None:
        with self._changed:
            self._is_registered = is_registered
            self._changed.notify_all()

    def _wait_until_due(self, interval_s: float) -> None:
        now = time.monotonic()
        not_before, at_last = now + SHORTEST_GAP_S, now + interval_s
        with self._changed:
            while not self._is_closing:
                left_s = max(not_before, min(self._due_at, at_last)) - time.monotonic()
                if left_s <= 0:
                    return
                self._changed.wait(left_s)

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing, seconds)

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask_for_ever(self) -> None:
        pause = _Pause("hear from the master what to run")
        generation = 0
        while self._wait_for_registration():
            try:
                desired = self._master.desired(self._name, generation, POLL_WAIT_S)
            except ConnectionEnded as error:
                _log.debug("Nothing is asked any more: %s", error)
                return
            except HarmonicIOError as error:
                if self._is_closing:
                    return
                if isinstance(error, NotFound):
                    generation = 0  # Another master may count from anywhere.
                self._sleep(pause.next_s(error))
                continue
            except Exception:  # noqa: BLE001  likewise
                _log.exception("The master could not be asked what worker %r should run; asked again", self._name)
                self._sleep(pause.next_s(None))
                continue
            pause.end()
            if desired.generation != generation:
                generation = desired.generation
                self._on_desired(desired)
            if desired.logs:
                self._on_logs_wanted(desired.logs)

    def _wait_for_registration(self) -> bool:
        """Wait until the master knows this worker; return whether it is worth asking."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_registered or self._is_closing)
            return not self._is_closing


def _without_running(report: WorkerReport) -> WorkerReport:
    return replace(report, engines=tuple(replace(each, running=()) for each in report.engines))


def _without_held(report: WorkerReport) -> WorkerReport:
    return replace(report, exits=tuple(replace(each, text="", held=()) for each in report.exits), troubles=())


class _Pause:
    """How long to wait after a request that failed, and one line of log for each outage."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._failures = 0

    def next_s(self, error: HarmonicIOError | None) -> float:
        self._failures += 1
        if self._failures == 1 and error is not None and not isinstance(error, NotFound):
            _log.warning("Cannot %s, trying again: %s", self._what, error)
        asked_s = error.retry_after_s if isinstance(error, Unavailable) else None
        backed_off_s = delay_s(self._failures, first_s=FIRST_DELAY_S, longest_s=LONGEST_DELAY_S, chance=random.random())
        return max(min(asked_s or 0.0, LONGEST_DELAY_S), backed_off_s)

    def end(self) -> None:
        if self._failures > 1:
            _log.info("Can %s again.", self._what)
        self._failures = 0
