"""Channels over UNIX sockets, between processes and containers of one host.

With its first bytes a dialler may hand over one file descriptor. Whoever accepted it takes it, or it is closed with the
greeting; what comes later, or comes beside it, the kernel closes: it is never asked for.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from harmonicio.core.errors import ConnectionEnded, Unavailable
from harmonicio.transport.channel import SLOW_AFTER_S, Buffer, Channel, accepted_from

_LONGEST_PLAIN_PATH_BYTES = 100
_ONE_DESCRIPTOR_BYTES = socket.CMSG_LEN(array.array("i").itemsize)
_DESCRIPTOR = struct.Struct("@i")
_WHO = struct.Struct("@iII")
_PEER_PIDFD = 77
#: So much more than the kernel's default is taken at once: large payloads go faster (and small answers are never many).
_SEND_BUFFER_BYTES = 1024**2


class UnixChannel(Channel):
    """A channel over a connected UNIX socket.

    Args:
        is_accepted: Whether the other end dialled, and may hand over a descriptor.
    """

    def __init__(
        self, sock: socket.socket, peer: str, *, slow_after_s: float = SLOW_AFTER_S, is_accepted: bool = False
    ) -> None:
        super().__init__(sock, peer, slow_after_s=slow_after_s)
        self._descriptor = -1
        self._is_greeting = is_accepted

    def send_with_descriptor(self, first: Buffer, descriptor: int) -> None:
        """Send bytes, the first on this channel, together with a descriptor that stays the caller's.

        Raises:
            ConnectionEnded: as :meth:`send_all` does.
        """
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
        try:
            sent = self._socket.sendmsg([first], [rights], socket.MSG_NOSIGNAL)
        except OSError as error:
            raise self._broken(error) from None
        self.send_all([memoryview(first)[sent:]])

    def take_descriptor(self) -> int | None:
        """Return the descriptor that came with the greeting, which is the caller's from now on; no other is taken."""
        self._is_greeting = False
        descriptor, self._descriptor = self._descriptor, -1
        return descriptor if descriptor >= 0 else None

    def receive_into(self, buffer: memoryview) -> int | None:
        return self._receive_greeting(buffer, 0) if self._is_greeting else super().receive_into(buffer)

    def try_receive(self, buffer: memoryview) -> int | None:
        return self._receive_greeting(buffer, socket.MSG_DONTWAIT) if self._is_greeting else super().try_receive(buffer)

    def _receive_greeting(self, buffer: memoryview, flags: int) -> int | None:
        try:
            count, ancillary, _, _ = self._socket.recvmsg_into(
                [buffer], _ONE_DESCRIPTOR_BYTES, flags | socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise self._broken(error) from None
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._keep_first(array.array("i", data[: len(data) - len(data) % 4]))
        return count

    def _keep_first(self, descriptors: array.array[int]) -> None:
        for each in descriptors:
            if self._descriptor < 0:
                self._descriptor = each
            else:
                os.close(each)

    def open_peer_process(self) -> int | None:
        """Return a descriptor (a pidfd) of the process that listens at the other end; None where there is none.

        It becomes readable when that process has ended.
        """
        try:
            said = self._socket.getsockopt(socket.SOL_SOCKET, _PEER_PIDFD, _DESCRIPTOR.size)
            return int(_DESCRIPTOR.unpack(said)[0])
        except OSError:
            return self._open_peer_pid()

    def _open_peer_pid(self) -> int | None:
        """Do so on a kernel before 6.5, by the number of the process."""
        try:
            pid, _, _ = _WHO.unpack(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _WHO.size))
            return os.pidfd_open(pid) if pid > 0 else None
        except OSError:
            return None

    def close(self) -> None:
        descriptor = self.take_descriptor()
        if descriptor is not None:
            os.close(descriptor)
        super().close()


def dial(path: str, *, slow_after_s: float = SLOW_AFTER_S) -> UnixChannel:
    """Connect to a UNIX socket; that does not wait.

    Raises:
        ConnectionEnded: there is none, or nobody listens there, or this user may not connect.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with _plain_name_of(path) as name:
            sock.connect(name)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        return UnixChannel(sock, path, slow_after_s=slow_after_s)
    except (OSError, ValueError) as error:
        sock.close()
        raise ConnectionEnded(f"No data connection to {path}: {getattr(error, 'strerror', None) or error}.") from None


def listen(path: Path, *, pending: int = 1024) -> socket.socket:
    """Return a listening, non-blocking socket that its owner alone may connect to; what was there before goes.

    Raises:
        Unavailable: the folder does not take a socket.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        os.fchmod(listener.fileno(), 0o600)  # What is bound has it from the first moment on.
        with _short_address(path) as address:
            listener.bind(address)
        listener.listen(pending)
    except OSError as error:
        listener.close()
        raise Unavailable(f"Cannot listen on {path}: {error.strerror or error}.") from None
    listener.setblocking(False)
    return listener


def accept(listener: socket.socket, *, slow_after_s: float = SLOW_AFTER_S) -> UnixChannel | None:
    """Return the next waiting connection, or None when there is none.

    Raises:
        Unavailable: this process or host has no room for another connection now.
    """
    accepted = accepted_from(listener)
    if accepted is None:
        return None
    sock, _ = accepted
    try:
        return UnixChannel(sock, "this host", slow_after_s=slow_after_s, is_accepted=True)
    except OSError:
        sock.close()
        return None  # The peer has gone before it was accepted.


def is_ended(process: int) -> bool:
    """Whether the process of a pidfd has ended."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))


def identity_of(process: int) -> tuple[int, int] | None:
    """Return what the pidfds of one process have in common, and no others; None on a kernel before 6.9."""
    with select.epoll() as other:
        nobody = os.fstat(other.fileno())
    status = os.fstat(process)
    return None if status.st_dev == nobody.st_dev else (status.st_dev, status.st_ino)


@contextlib.contextmanager
def _plain_name_of(path: str) -> Iterator[str]:
    """Yield a name for a socket: short enough, and of that socket itself, not of what a link in its place leads to."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise ValueError("it is no socket")
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _short_address(path: Path) -> Iterator[str]:
    """Yield an address to bind that is short enough for any path.

    The control connection has the same of its own: it knows nothing of the data plane.
    """
    if len(os.fsencode(path)) <= _LONGEST_PLAIN_PATH_BYTES:
        yield os.fspath(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
