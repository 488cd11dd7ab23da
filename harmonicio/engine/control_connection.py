"""The engine's word to its controller: reports up, orders down, over the socket in the engine's folder.

A report leaves at once when the state changes, else every ``interval_s``. An engine between two messages counts as
busy: idle is what was idle since the last look, and looks are ``SETTLE_S`` apart.

      dial ──► connected ──ended──► dial again, every DIAL_EVERY_S ──not for orphan_after_s──► on_orphaned
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from harmonicio.control.engine_channel import EngineChannel, dial_controller
from harmonicio.control.engine_messages import EngineOrder
from harmonicio.control.messages import EngineReport
from harmonicio.core.engine import Availability
from harmonicio.core.errors import ConnectionEnded

_log = logging.getLogger(__name__)

DIAL_EVERY_S = 0.2
SETTLE_S = 0.05
ORDER_WAIT_S = 1.0


class ControlConnection:
    """Keeps the connection to the controller, in two threads: one sends reports, one waits for orders.

    Args:
        path: The controller's socket.
        make_report: Returns the report of this moment.
        on_order: Called with each order; must not block for long.
        on_orphaned: Called once, when no controller could be reached for ``orphan_after_s``.
        interval_s: At most this long between two reports.
    """

    def __init__(
        self,
        path: str,
        make_report: Callable[[], EngineReport],
        *,
        on_order: Callable[[EngineOrder], None],
        on_orphaned: Callable[[], None],
        interval_s: float,
        orphan_after_s: float,
    ) -> None:
        self._path = path
        self._make_report = make_report
        self._on_order = on_order
        self._on_orphaned = on_orphaned
        self._interval_s = interval_s
        self._orphan_after_s = orphan_after_s
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._channel: EngineChannel | None = None
        self._thread = threading.Thread(target=self._run, name="engine-control", daemon=True)

    def __repr__(self) -> str:
        return f"<ControlConnection {self._path}, {'connected' if self._channel else 'not connected'}>"

    @property
    def is_intact(self) -> bool:
        """Whether its thread, which dials again whatever happens, is there."""
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def report_soon(self) -> None:
        """The state has changed: report now."""
        self._changed.set()

    def close(self) -> None:
        """Send a last report, if somebody listens, and end."""
        self._closing.set()
        self._changed.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        last_connected_at = time.monotonic()
        is_orphaned = False
        while not self._closing.is_set():
            try:
                channel = dial_controller(self._path)
            except ConnectionEnded as error:
                if not is_orphaned and time.monotonic() - last_connected_at > self._orphan_after_s:
                    is_orphaned = True
                    _log.warning("No controller for %.0f s, ending: %s", self._orphan_after_s, error)
                    self._on_orphaned()
                self._closing.wait(min(DIAL_EVERY_S, self._orphan_after_s / 4))
                continue
            self._serve(channel)
            last_connected_at = time.monotonic()

    def _serve(self, channel: EngineChannel) -> None:
        orders = threading.Thread(target=self._take_orders, args=(channel,), name="engine-orders", daemon=True)
        self._channel = channel
        orders.start()
        try:
            self._send_reports(channel)
        except ConnectionEnded as error:
            _log.info("The controller is gone: %s", error)
        finally:
            self._channel = None
            channel.close()
            orders.join()

    def _send_reports(self, channel: EngineChannel) -> None:
        """Report until the engine or the connection ends.

        A slot is taken a moment before its message is known, so once after each change to busy, what runs is news too:
        if the engine dies of it, the controller should know of which message.
        """
        last: EngineReport | None = None
        is_running_told = False
        due_at = 0.0
        while True:
            self._changed.clear()
            report, now = self._make_report(), time.monotonic()
            is_news = last is None or (report.state, report.address) != (last.state, last.address)
            is_running_told = not is_news and is_running_told
            if report.running and not is_running_told:
                is_news = is_running_told = True
            is_last = self._closing.is_set()
            if is_news or is_last or now >= due_at:
                channel.send_report(report)
                last, due_at = report, now + self._interval_s
            if is_last:
                return
            self._closing.wait(SETTLE_S)
            is_quiet = not report.running and report.state is Availability.IDLE
            self._changed.wait(max(0.0, due_at - time.monotonic()) if is_quiet else 0.0)

    def _take_orders(self, channel: EngineChannel) -> None:
        try:
            while True:
                order = channel.receive_order(ORDER_WAIT_S)
                if order is not None:
                    self._on_order(order)
        except ConnectionEnded:
            self._changed.set()  # The other thread finds out when it sends.
