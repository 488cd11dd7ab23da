"""The control connections of one worker's engines: a listener in each engine's folder, never blocking."""

from __future__ import annotations

import logging
import selectors
from dataclasses import replace
from pathlib import Path
from typing import Any

from harmonicio.control.engine_channel import ControllerChannel, ControlListener
from harmonicio.control.engine_messages import DATA_SOCKET_NAME, EngineOrder
from harmonicio.control.messages import EngineReport
from harmonicio.core.certificates import NO_TLS, TlsIdentity
from harmonicio.core.errors import ConnectionEnded

_log = logging.getLogger(__name__)

SOCKET_NAME = "control.sock"


class ControlDesk:
    """Hears engines and passes orders on; belongs to the worker's main thread.

    Args:
        selector: The main thread's; what is ready there with ``data`` of this desk goes to :meth:`serve`.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._listeners: dict[str, ControlListener] = {}
        self._channels: dict[str, ControllerChannel] = {}
        self._epoch = 0
        self._tls: TlsIdentity | None = None

    def __repr__(self) -> str:
        return f"<ControlDesk: {len(self._channels)} of {len(self._listeners)} engines connected>"

    def open(self, engine: str, folder: Path) -> Path:
        """Listen for an engine in its folder; return the socket's path.

        Raises:
            ConnectionEnded: the folder takes no socket.
        """
        path = folder / SOCKET_NAME
        self._listeners[engine] = listener = ControlListener(path)
        self._selector.register(listener, selectors.EVENT_READ, (engine, listener))
        return path

    def serve(self, data: Any) -> list[EngineReport]:
        """Take what is ready: a new connection, or reports."""
        engine, ready = data
        if isinstance(ready, ControlListener):
            self._accept(engine, ready)
            return []
        try:
            reports = [report for report in ready.receive_reports() if report.engine == engine]
            return [self._with_own_socket(engine, report) for report in reports]
        except ConnectionEnded as error:
            _log.debug("Engine %s: %s", engine, error)
            if self._channels.get(engine) is ready:  # Else it has dialled again since.
                self._drop(engine)
            return []

    def _with_own_socket(self, engine: str, report: EngineReport) -> EngineReport:
        """Say where its data socket is on this host. It knows only that it has one; its word would not do anyway."""
        listener = self._listeners.get(engine)
        path = "" if listener is None or not report.socket else str(listener.path.with_name(DATA_SOCKET_NAME))
        return replace(report, socket=path)

    def last_words(self, engine: str) -> list[EngineReport]:
        """Take everything that an engine which has ended still said."""
        if engine in self._listeners:
            self._accept(engine, self._listeners[engine])
        reports = []
        while (channel := self._channels.get(engine)) is not None:
            more = self.serve((engine, channel))
            if not more and engine in self._channels:
                break
            reports += more
        return reports

    def drain(self, engine: str, within_s: float) -> bool:
        """Order an engine to drain; False when it is not connected."""
        return self._send(engine, EngineOrder(within_s))

    def announce_epoch(self, epoch: int) -> None:
        """Have all engines, also those that come, refuse leases of older epochs: they were revoked.

        What the master said last counts: one whose folder was restored or replaced counts from further back.
        """
        if epoch == self._epoch:
            return
        self._epoch = epoch
        for engine in list(self._channels):
            self._send(engine, EngineOrder(epoch=epoch))

    def announce_tls(self, identity: TlsIdentity) -> None:
        """Have all engines, also those that come, show and believe this from now on."""
        if identity == (self._tls or NO_TLS):
            return
        self._tls = identity
        for engine in list(self._channels):
            self._send(engine, EngineOrder(tls=identity))

    def _send(self, engine: str, order: EngineOrder) -> bool:
        channel = self._channels.get(engine)
        if channel is None:
            return False
        try:
            channel.send_order(order)
        except ConnectionEnded:
            self._drop(engine)
            return False
        return True

    def close(self, engine: str) -> None:
        """End what belongs to one engine."""
        self._drop(engine)
        listener = self._listeners.pop(engine, None)
        if listener is not None:
            self._selector.unregister(listener)
            listener.close()

    def close_all(self) -> None:
        for engine in list(self._listeners):
            self.close(engine)

    def _accept(self, engine: str, listener: ControlListener) -> None:
        try:
            channel = listener.accept()
        except ConnectionEnded as error:
            _log.warning("Engine %s cannot be heard: %s", engine, error)
            return
        if channel is None:
            return
        self._drop(engine)  # An engine that dials again has given its earlier connection up.
        self._channels[engine] = channel
        self._selector.register(channel, selectors.EVENT_READ, (engine, channel))
        if self._epoch or self._tls is not None:
            self._send(engine, EngineOrder(epoch=self._epoch, tls=self._tls))

    def _drop(self, engine: str) -> None:
        channel = self._channels.pop(engine, None)
        if channel is not None:
            self._selector.unregister(channel)
            channel.close()
