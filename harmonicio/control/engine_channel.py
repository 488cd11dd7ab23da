"""The control connection of one engine: JSON lines over a UNIX socket in the engine's folder.

    engine   ── EngineReport, one a line ──►   controller
             ◄── EngineOrder, one a line ────

The controller listens and the engine dials, so that engines which outlive their controller find the next one at the
same path. Rules:

- A line is at most :data:`MAX_LINE_BYTES`; a longer one, or one that is no such record, ends the connection.
- Whatever goes wrong is :class:`~harmonicio.core.errors.ConnectionEnded`; the engine dials again.
- The engine's end blocks, with time-outs. The controller's end never blocks: one thread watches all engines.
- The folder is the engine's, which can replace what lies there at any moment: nothing is changed by a path that could
  be a link.
- UNIX socket paths end at 107 bytes. Longer ones are reached through the folder's descriptor (``/proc/self/fd``).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from harmonicio.control import json_codec
from harmonicio.control.engine_messages import EngineOrder
from harmonicio.control.messages import EngineReport
from harmonicio.core.errors import ConnectionEnded, InvalidInput

MAX_LINE_BYTES = 1024**2
DIAL_TIMEOUT_S = 5.0
#: A controller that reads nothing for this long is given up; the engine dials again.
SEND_TIMEOUT_S = 10.0

_LONGEST_PLAIN_PATH_BYTES = 100
_READ_BYTES = 64 * 1024

Record = TypeVar("Record")


def dial_controller(path: str | os.PathLike[str]) -> EngineChannel:
    """Return the engine's end of a new control connection.

    Raises:
        ConnectionEnded: no controller listens at ``path``.
    """
    dialled = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dialled.settimeout(DIAL_TIMEOUT_S)
    try:
        with _address_of(Path(path)) as address:
            dialled.connect(address)
    except OSError as error:
        dialled.close()
        raise ConnectionEnded(f"No controller listens at {os.fspath(path)} ({error.strerror or error}).") from error
    return EngineChannel(dialled)


class EngineChannel:
    """The engine's end: reports go up, orders come down. One thread may send while another receives."""

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(SEND_TIMEOUT_S)
        self._socket = connected
        self._lines = _LineBuffer()
        self._sending = threading.Lock()

    def __repr__(self) -> str:
        return f"<EngineChannel {'closed' if self._socket.fileno() < 0 else 'open'}>"

    def send_report(self, report: EngineReport) -> None:
        """Send one report.

        Raises:
            ConnectionEnded: the controller is gone, or has read nothing for :data:`SEND_TIMEOUT_S`.
        """
        line = _line_of(report)
        try:
            with self._sending, _as_ended():
                self._socket.sendall(line)
        except ConnectionEnded:
            self.close()  # Part of the line may be out: nothing can follow it.
            raise

    def receive_order(self, timeout_s: float) -> EngineOrder | None:
        """Return the next order, or ``None`` when there is none within ``timeout_s`` seconds.

        Raises:
            ConnectionEnded: the controller is gone, or this end was closed, also while waiting.
        """
        if (waiting := self._lines.next()) is not None:
            return _record_of(EngineOrder, waiting)
        with _as_ended():
            poll = select.poll()
            poll.register(self._socket.fileno(), select.POLLIN)
            if not poll.poll(max(0.0, timeout_s) * 1000):
                return None
            self._lines.add(self._socket.recv(_READ_BYTES))
        line = self._lines.next()
        return None if line is None else _record_of(EngineOrder, line)

    def close(self) -> None:
        """End the connection and wake whoever waits in it; may be called more than once, from any thread."""
        _shut(self._socket)


class ControlListener:
    """The controller's socket in one engine's folder; a stale one of an earlier controller is replaced.

    Raises:
        ConnectionEnded: the folder does not take a socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        try:
            path.unlink(missing_ok=True)
            os.fchmod(self._socket.fileno(), 0o600)  # What is bound has it from the first moment on.
            with _address_of(path) as address:
                self._socket.bind(address)
            _give_to_the_owner_of(path.parent, path)
            self._socket.listen(8)
        except OSError as error:
            self._socket.close()
            raise ConnectionEnded(f"{path} cannot take a control socket ({error.strerror or error}).") from error

    def __repr__(self) -> str:
        return f"<ControlListener {self.path} {'closed' if self._socket.fileno() < 0 else 'open'}>"

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> ControllerChannel | None:
        """Return the next engine that dialled, or ``None``; never blocks.

        Raises:
            ConnectionEnded: closed, or this process may open no more files.
        """
        try:
            with _as_ended():
                accepted, _ = self._socket.accept()
        except BlockingIOError:
            return None
        return ControllerChannel(accepted)

    def close(self) -> None:
        """Stop listening and remove the socket; may be called more than once."""
        if self._socket.fileno() >= 0:
            self._socket.close()
            with contextlib.suppress(OSError):  # The engine has put something else there; that goes with its folder.
                self.path.unlink(missing_ok=True)


class ControllerChannel:
    """The controller's end: never blocks, and belongs to one thread."""

    def __init__(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        self._socket = accepted
        self._lines = _LineBuffer()

    def __repr__(self) -> str:
        return f"<ControllerChannel {'closed' if self._socket.fileno() < 0 else 'open'}>"

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive_reports(self) -> list[EngineReport]:
        """Return the reports that have arrived, perhaps none.

        Raises:
            ConnectionEnded: the engine is gone, or what it sent is no report.
        """
        try:
            with _as_ended():
                self._lines.add(self._socket.recv(_READ_BYTES))
        except BlockingIOError:
            return []
        reports = []
        while (line := self._lines.next()) is not None:
            reports.append(_record_of(EngineReport, line))
        return reports

    def send_order(self, order: EngineOrder) -> None:
        """Send one order.

        Raises:
            ConnectionEnded: the engine is gone, or reads nothing.
        """
        line = _line_of(order)
        try:
            with _as_ended():
                sent = self._socket.send(line)
        except BlockingIOError:
            sent = 0
        if sent != len(line):
            raise ConnectionEnded("The engine does not read its control connection.")

    def close(self) -> None:
        """End the connection; may be called more than once."""
        _shut(self._socket)


class _LineBuffer:
    """Bytes in, whole lines out; bounded."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._seen = 0

    def add(self, more: bytes) -> None:
        if not more:
            raise ConnectionEnded("The other end closed the control connection.")
        self._bytes += more
        if len(self._bytes) > MAX_LINE_BYTES and self._bytes.find(b"\n", self._seen) < 0:
            raise ConnectionEnded(f"A line on the control connection is longer than {MAX_LINE_BYTES} bytes.")

    def next(self) -> bytes | None:
        end = self._bytes.find(b"\n", self._seen)
        if end < 0:
            self._seen = len(self._bytes)
            return None
        line = bytes(self._bytes[:end])
        del self._bytes[: end + 1]
        self._seen = 0
        return line


def _line_of(record: Any) -> bytes:
    line = json_codec.dumps(record) + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise ConnectionEnded(f"A {type(record).__name__} of {len(line)} bytes is too long for the control connection.")
    return line


def _record_of(kind: type[Record], line: bytes) -> Record:
    try:
        return json_codec.loads(kind, line)
    except InvalidInput as error:
        raise ConnectionEnded(f"The control connection carried something else: {error.text}") from error


def _shut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):  # Not connected any more: nobody to wake.
        connected.shutdown(socket.SHUT_RDWR)
    connected.close()


def _give_to_the_owner_of(folder: Path, path: Path) -> None:
    """Let the engine connect to whom its folder belongs; it may run as another user.

    That one may have replaced the socket by a link meanwhile: then the link becomes its own, not what it leads to.
    """
    owner = folder.stat()
    if owner.st_uid != os.geteuid():
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


@contextlib.contextmanager
def _as_ended() -> Iterator[None]:
    """Map what a socket raises; that nothing is there yet is no end."""
    try:
        yield
    except BlockingIOError:
        raise
    except (OSError, ValueError) as error:  # ValueError: closed by another thread, so there is no descriptor.
        raise ConnectionEnded(f"The control connection ended ({error}).") from error


@contextlib.contextmanager
def _address_of(path: Path) -> Iterator[str]:
    """Yield an address for bind and connect that is short enough for any path."""
    if len(os.fsencode(path)) <= _LONGEST_PLAIN_PATH_BYTES:
        yield os.fspath(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
