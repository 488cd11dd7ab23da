"""The threads that talk to the master: one registers and reports, one waits for what is desired.

The master's absence stops no engine: both try again with growing pauses.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from harmonicio.control.client import MasterClient
from harmonicio.control.messages import Desired, WorkerRegistration, WorkerReport, WorkerWelcome
from harmonicio.core.errors import HarmonicIOError, NotFound

_log = logging.getLogger(__name__)

DESIRED_WAIT_S = 20.0
RETRY_FIRST_S, RETRY_MAX_S = 0.2, 5.0
WARN_EVERY_S = 60.0


class Reporter:
    """Talks to the master for one worker.

    Args:
        make_report: Returns the next report; called on the reporting thread.
        on_welcome, on_desired, on_answered: Told of the master's answers, on threads of the reporter.
    """

    def __init__(
        self,
        client: MasterClient,
        registration: WorkerRegistration,
        *,
        make_report: Callable[[], WorkerReport],
        on_welcome: Callable[[WorkerWelcome], None],
        on_desired: Callable[[Desired], None],
        on_answered: Callable[[WorkerReport], None],
    ) -> None:
        self._client = client
        self._registration = registration
        self._make_report = make_report
        self._on_welcome = on_welcome
        self._on_desired = on_desired
        self._on_answered = on_answered
        self._changed = threading.Condition()
        self._due_at = 0.0
        self._is_registered = False
        self._is_closing = False
        self._warned_at = -WARN_EVERY_S
        self._interval_s = 1.0
        self._generation = 0
        self._threads = [
            threading.Thread(target=self._run, args=(step,), name=f"worker-{name}", daemon=True)
            for name, step in (("reports", self._report), ("desired", self._ask_desired))
        ]

    def __repr__(self) -> str:
        return f"<Reporter to {self._client!r}{', registered' if self._is_registered else ''}>"

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def report_within(self, seconds: float) -> None:
        """See that the master hears of a change within so many seconds."""
        with self._changed:
            self._due_at = min(self._due_at, time.monotonic() + seconds)
            self._changed.notify_all()

    def close(self, *, is_leaving: bool) -> None:
        """End the threads; say goodbye to the master when the worker leaves for good."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if is_leaving and self._is_registered:
            try:
                self._client.report(self._registration.worker, self._make_report())
                self._client.leave_worker(self._registration.worker)
            except HarmonicIOError as error:
                _log.info("The master does not hear that this worker leaves: %s", error)
        self._client.close()
        for thread in self._threads:
            thread.join()

    # ── threads ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, step: Callable[[], None]) -> None:
        failures = 0
        while not self._is_closing:
            try:
                step()
                failures = 0
            except HarmonicIOError as error:
                failures += 1
                self._complain(error)
                pause_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(failures, 10)) * (0.5 + random.random() / 2)
                self._wait(lambda: False, pause_s)

    def _report(self) -> None:
        if not self._is_registered:
            welcome = self._client.register_worker(self._registration)
            self._on_welcome(welcome)
            self._interval_s = welcome.report_interval_s
            self._set_registered(True)
        self._wait(lambda: time.monotonic() >= self._due_at, max(0.0, self._due_at - time.monotonic()))
        if self._is_closing:
            return
        with self._changed:
            self._due_at = time.monotonic() + self._interval_s
        report = self._make_report()
        try:
            answer = self._client.report(self._registration.worker, report)
        except NotFound:
            self._set_registered(False)
            return
        if answer.is_known:
            self._on_answered(report)
        else:
            self._set_registered(False)

    def _ask_desired(self) -> None:
        self._wait(lambda: self._is_registered, 1.0)
        if not self._is_registered or self._is_closing:
            return
        desired = self._client.desired(self._registration.worker, self._generation, DESIRED_WAIT_S)
        if desired.generation != self._generation:
            self._generation = desired.generation
            self._on_desired(desired)

    def _set_registered(self, is_registered: bool) -> None:
        with self._changed:
            self._is_registered = is_registered
            self._due_at = 0.0
            self._changed.notify_all()

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for the condition, at most so long; a changed due time is looked at again by the caller."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not condition() and not self._is_closing:
                left = min(deadline, self._due_at if self._due_at > time.monotonic() else deadline) - time.monotonic()
                if time.monotonic() >= deadline:
                    return
                self._changed.wait(max(0.001, left))

    def _complain(self, error: HarmonicIOError) -> None:
        if not self._is_closing and time.monotonic() - self._warned_at >= WARN_EVERY_S:
            self._warned_at = time.monotonic()
            _log.warning("%s Engines go on meanwhile.", error)
