"""An engine's process: the real :class:`~harmonicio.engine.daemon.Daemon` around a handler whose deeds are planned.

Ours are only: what is around the process (:mod:`harmonicio.engine.run`, ten lines of it), its control socket and its
handler board, which lie in the memory of its host.
"""

from __future__ import annotations

import mmap
from collections import deque
from pathlib import Path
from typing import Any

from harmonicio.control.engine_messages import EngineConfiguration, EngineOrder
from harmonicio.control.messages import EngineReport, RunningMessage
from harmonicio.core.errors import ConnectionEnded, HarmonicIOError, StorageError
from harmonicio.engine.daemon import Daemon
from harmonicio.engine.handler import Handler
from simulation.channel import Unix
from simulation.loop import check_alive, current
from simulation.readiness import Waitable

EXIT_DRAINED, EXIT_FORCED, EXIT_CANNOT_START = 0, 1, 3


def run(configuration: EngineConfiguration, daemons: dict[str, Daemon]) -> None:
    """Be an engine, until it has drained; what stands in :func:`harmonicio.engine.run.run`."""
    process = current().process
    daemon = Daemon(configuration, "the plan")
    daemons[configuration.engine] = daemon
    try:
        daemon.start()
        is_finished = daemon.finish()
    except HarmonicIOError:
        daemon.close()
        process.die(EXIT_CANNOT_START)
        return
    if is_finished:
        daemon.close()
    process.die(EXIT_DRAINED if is_finished else EXIT_FORCED)


def substitutes(world: Any) -> list[tuple[Any, str, Any]]:
    """Return what stands in for what in the engine's modules."""
    from harmonicio.engine import control_connection
    from harmonicio.transport import data_port, listeners
    from simulation import stage
    from simulation.rest import Client

    def load(_: str) -> Handler:
        return Handler(world.handle, None, None, False, "the plan")

    return [
        (data_port, "OpenFiles", OpenFiles),
        (listeners, "unix", Unix),
        (stage.daemon, "load", load),
        (stage.daemon, "HandlerBoard", HandlerBoard),
        (stage.daemon, "MasterClient", Client),
        (stage.payloads, "_map_new_file", world.map_new_file),
        (control_connection, "dial_controller", dial_controller),
    ]


def map_new_file(size_bytes: int, *, is_full: bool) -> mmap.mmap:
    """Return memory in place of a file on the scratch volume."""
    check_alive()
    if is_full:
        raise StorageError(f"The scratch folder cannot take a payload of {size_bytes} bytes: No space left on device.")
    return mmap.mmap(-1, size_bytes)


class OpenFiles:
    """:class:`harmonicio.transport.open_files.OpenFiles`: handlers here close nobody's files."""

    are_intact = is_intact = True

    def __init__(self, *_: object) -> None:
        pass


# ── the control connection ───────────────────────────────────────────────────────────────────────────────────────────


class ControlSocket(Waitable):
    """Between one engine and its controller: reports up, orders down; the controller's end, too."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: deque[EngineReport] = deque()
        self.orders: deque[EngineOrder] = deque()
        self.order_came = Waitable()
        self.is_closed = False

    def is_readable(self) -> bool:
        return bool(self.reports) or self.is_closed

    def receive_reports(self) -> list[EngineReport]:
        if self.is_closed and not self.reports:
            raise ConnectionEnded("The engine is gone.")
        reports = list(self.reports)
        self.reports.clear()
        return reports

    def send_order(self, order: EngineOrder) -> None:
        if self.is_closed:
            raise ConnectionEnded("The engine is gone.")
        self.orders.append(order)
        self.order_came.changed()

    def close(self) -> None:
        self.is_closed = True
        self.changed()
        self.order_came.changed()


class ControlListener(Waitable):
    """:class:`harmonicio.control.engine_channel.ControlListener`."""

    def __init__(self, path: object) -> None:
        super().__init__()
        process = check_alive()
        self._host, self.path = process.host, str(path)
        self._arrived: deque[ControlSocket] = deque()
        self.accepted: list[ControlSocket] = []
        self._host.shared[self.path] = self
        process.on_death.append(self.close)

    def is_readable(self) -> bool:
        return bool(self._arrived)

    def arrived(self, connection: ControlSocket) -> None:
        self._arrived.append(connection)
        self.changed()

    def accept(self) -> ControlSocket | None:
        if not self._arrived:
            return None
        self.accepted.append(self._arrived.popleft())
        return self.accepted[-1]

    def close(self) -> None:
        if self._host.shared.get(self.path) is self:
            del self._host.shared[self.path]
        for connection in (*self._arrived, *self.accepted):
            connection.close()


class EngineChannel:
    """:class:`harmonicio.control.engine_channel.EngineChannel`."""

    def __init__(self, connection: ControlSocket) -> None:
        self._connection = connection

    @property
    def is_intact(self) -> bool:
        return True

    def send_report(self, report: EngineReport) -> None:
        check_alive()
        if self._connection.is_closed:
            raise ConnectionEnded("The controller is gone.")
        self._connection.reports.append(report)
        self._connection.changed()

    def receive_order(self, timeout_s: float) -> EngineOrder | None:
        check_alive()
        connection = self._connection
        if not connection.orders and not connection.is_closed:
            connection.order_came.wait(timeout_s)
        if connection.orders:
            return connection.orders.popleft()
        if connection.is_closed:
            raise ConnectionEnded("The controller is gone.")
        return None

    def close(self) -> None:
        self._connection.close()


def dial_controller(path: str) -> EngineChannel:
    """:func:`harmonicio.control.engine_channel.dial_controller`."""
    process = check_alive()
    listener = process.host.shared.get(path)
    if not isinstance(listener, ControlListener):
        raise ConnectionEnded(f"No controller at {path}.")
    connection = ControlSocket()
    process.on_death.append(connection.close)
    listener.arrived(connection)
    return EngineChannel(connection)


# ── the handler board ────────────────────────────────────────────────────────────────────────────────────────────────


class HandlerBoard:
    """:class:`harmonicio.control.handler_board.HandlerBoard`."""

    def __init__(self, path: Path, rows: int) -> None:
        self._rows: list[tuple[str, float, bool] | None] = [None] * rows
        check_alive().host.shared[str(path)] = self

    def begin(self, row: int, message_id: str, since: float) -> None:
        check_alive()
        self._rows[row] = (message_id, since, False)

    def returned(self, row: int, message_id: str, since: float) -> None:
        check_alive()
        self._rows[row] = (message_id, since, True)

    def end(self, row: int) -> None:
        check_alive()  # What unwinds in a dead process must not say that its handler has returned.
        self._rows[row] = None

    def running(self, now: float, rows: int) -> tuple[RunningMessage, ...]:
        seen = [row for row in self._rows[:rows] if row is not None]
        return tuple(RunningMessage(message, max(0.0, now - since), kept) for message, since, kept in seen)

    @property
    def is_intact(self) -> bool:
        return True

    def close(self) -> None:
        pass


def read_board(path: Any, rows: int) -> tuple[RunningMessage, ...] | None:
    """:func:`harmonicio.control.handler_board.read_board`."""
    host = check_alive().host
    board = host.shared.get(str(path))
    return board.running(host.monotonic(), rows) if isinstance(board, HandlerBoard) else None
