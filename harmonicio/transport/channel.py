"""One ordered byte stream over a socket, built for large payloads.

Blocking sockets with kernel time-outs (SO_RCVTIMEO, SO_SNDTIMEO): Python's own ``settimeout`` would add a poll to every
call and make MSG_WAITALL return early. One ``sendmsg`` carries header and payload; one ``recv_into`` with MSG_WAITALL
fills a payload buffer. Transfers below 64 KB/s for 30 s are cut, so that a stuck peer cannot hold a thread for ever.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from harmonicio.core.errors import ConnectionEnded, Unavailable
from harmonicio.transport.busy_poll import SOON_S, BusyPoll

#: A receive gives up after this long without a byte, so that a thread can go back to other work.
RECEIVE_SLICE_S = 0.05
SEND_SLICE_S = 5.0
SLOW_AFTER_S = 30.0
SLOW_BYTES_PER_S = 64 * 1000
USER_TIMEOUT_MS = 20_000
DISCARD_WITHIN_S, DISCARD_READS = 0.25, 256
#: Who reads a payload while it arrives hears of it in steps of this size.
PROGRESS_BYTES = 1024**2
#: The kernel takes at most 1,024 buffers in one call.
MAX_BUFFERS = 1024

# To put members of an enumeration together costs more than half of a call to the kernel.
DONTWAIT, NOSIGNAL, WAITALL = int(socket.MSG_DONTWAIT), int(socket.MSG_NOSIGNAL), int(socket.MSG_WAITALL)
AT_ONCE = DONTWAIT | NOSIGNAL

Buffer = bytes | bytearray | memoryview


class Channel:
    """An ordered byte stream.

    One thread reads and one writes at a time; :meth:`shutdown` may be called from any thread.

    Args:
        sock: A connected stream socket; the channel owns it from now on.
        peer: What to call the other end in error texts.
        slow_after_s: A transfer is judged each time after this long.
    """

    def __init__(self, sock: socket.socket, peer: str, *, slow_after_s: float = SLOW_AFTER_S) -> None:
        self._socket = sock
        self._slow_after_s = slow_after_s
        self._ending = threading.Lock()
        self.peer = peer
        self.is_closed = False
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(RECEIVE_SLICE_S))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(min(SEND_SLICE_S, slow_after_s)))

    def __repr__(self) -> str:
        return f"<Channel to {self.peer}{', closed' if self.is_closed else ''}>"

    def secure(self, *, until: float, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Shake hands with the listener that was dialled, where there is something to agree on first.

        Args:
            until: When to give up, on the monotonic clock.
            is_wanted: Asked now and then; False gives up.

        Raises:
            ConnectionEnded: it did not come about; says why, and what to do.
        """

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def has_bytes_waiting(self) -> bool:
        """Whether a receive would return at once, with bytes or with the end of the stream."""
        poll = select.poll()  # One of its own for each caller, because one serves one thread at a time.
        try:
            poll.register(self._socket.fileno(), select.POLLIN)
        except ValueError:
            return True  # It is closed: who reads next sees that.
        return bool(poll.poll(0))

    @property
    def has_bytes_kept(self) -> bool:
        """Whether a receive may return bytes that no selector sees, because they were read from the socket before."""
        return False

    def receive_into(self, buffer: memoryview) -> int | None:
        """Read what is there, at most one buffer full.

        Returns:
            Bytes read, 0 at the end of the stream, None when nothing came for ``RECEIVE_SLICE_S``.

        Raises:
            ConnectionEnded: the stream broke.
        """
        try:
            return self._socket.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise self._broken(error) from None

    def poll_into(self, buffer: memoryview, polling: BusyPoll, until: float | None = None) -> int | None:
        """Read what comes within a moment, or until then, without sleeping; for the rest as :meth:`try_receive`."""
        return polling.poll(lambda: self.try_receive(buffer), until)

    def receive_exactly(
        self, buffer: memoryview, *, on_progress: Callable[[int], None] | None = None, polling: BusyPoll | None = None
    ) -> int:
        """Fill the buffer.

        Args:
            on_progress: Called with the number of bytes read, each time after at most ``PROGRESS_BYTES``.
            polling: Take what comes within the first moment as it comes, without sleeping.

        Returns:
            Bytes read: all, or fewer when the stream ended.

        Raises:
            ConnectionEnded: the stream broke, or it was slower than 64 KB/s for 30 s.
        """
        filled, size = 0, len(buffer)
        at_once = size if on_progress is None else PROGRESS_BYTES
        begun, mark = time.monotonic(), 0
        deadline, polls_until = begun + self._slow_after_s, begun + SOON_S
        while filled < size:
            rest = buffer[filled : filled + at_once]
            count = None
            if polling is not None and time.monotonic() < polls_until:
                count = self.poll_into(rest, polling, polls_until)
            if count is None:
                polling, count = None, self._receive_most(rest)
            if count == 0:
                break
            filled += count or 0
            if on_progress is not None and count:
                on_progress(filled)
            if time.monotonic() > deadline:
                self._check_speed(filled - mark)
                deadline, mark = time.monotonic() + self._slow_after_s, filled
        return filled

    def _receive_most(self, buffer: memoryview) -> int | None:
        """Fill the buffer, as far as its bytes come without a longer pause; None when none did."""
        try:
            return self._socket.recv_into(buffer, 0, WAITALL)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise self._broken(error) from None

    def send_all(self, buffers: Sequence[Buffer]) -> None:
        """Send every byte of every buffer, in order, in as few calls as possible.

        Raises:
            ConnectionEnded: the stream broke, or it was slower than 64 KB/s for 30 s.
        """
        pending = [view for view in map(_bytes_view, buffers) if len(view)]
        deadline, sent_since = 0.0, 0
        while pending:
            count = self._send_some(pending[:MAX_BUFFERS])
            if not (pending := without_prefix(pending, count)):
                return
            now = time.monotonic()
            sent_since += count
            deadline = deadline or now + self._slow_after_s
            if now > deadline:
                self._check_speed(sent_since)
                deadline, sent_since = now + self._slow_after_s, 0

    def try_send(self, buffers: Sequence[memoryview]) -> int:
        """Send what the kernel takes without waiting; return how many bytes that was."""
        try:
            return self._socket.sendmsg(buffers[:MAX_BUFFERS], (), AT_ONCE)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise self._broken(error) from None

    def try_receive(self, buffer: memoryview) -> int | None:
        """Read what is there without waiting: bytes read, 0 at the end of the stream, None when nothing is there."""
        try:
            return self._socket.recv_into(buffer, 0, DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise self._broken(error) from None

    def take_descriptor(self) -> int | None:
        """Return the file descriptor that came with the greeting: over UNIX sockets there may be one."""
        return None

    def _send_some(self, buffers: Sequence[memoryview]) -> int:
        try:
            return self._socket.sendmsg(buffers, (), NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise self._broken(error) from None

    def _check_speed(self, count: int) -> None:
        if count < SLOW_BYTES_PER_S * self._slow_after_s:
            raise ConnectionEnded(
                f"The transfer with {self.peer} moved {count} bytes in {self._slow_after_s:.0f} s and was cut.",
                hint="Look for a stuck process or a broken network path.",
            )

    def _broken(self, error: OSError) -> ConnectionEnded:
        return ConnectionEnded(f"The connection to {self.peer} broke: {error.strerror or error}.")

    def shutdown(self) -> None:
        """Wake whoever reads or writes this channel and let them see its end; safe from any thread."""
        with self._ending:  # The number of a closed socket may already belong to another one.
            if self.is_closed:
                return
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # It was not connected any more, which is what was wanted.

    def finish_sending(self) -> None:
        """Say that no more bytes follow; the other direction stays open."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # The peer was faster.

    def discard_briefly(self) -> None:
        """Read and forget what the peer still sends, within narrow bounds.

        Closing a socket with unread bytes resets the connection, and the peer would not see the last frame.
        """
        scrap = memoryview(bytearray(64 * 1024))
        deadline = time.monotonic() + DISCARD_WITHIN_S
        for _ in range(DISCARD_READS):
            try:
                count = self._socket.recv_into(scrap)
            except (BlockingIOError, InterruptedError):
                count = None
            except OSError:
                return  # It is reset already.
            if count == 0 or time.monotonic() > deadline:
                return

    def discard_what_is_here(self, most_bytes: int) -> None:
        """Read and forget what has come already, without waiting for more."""
        try:
            self._socket.recv(max(0, most_bytes), DONTWAIT)
        except OSError:
            return  # Nothing has, or it is reset already.

    def close(self) -> None:
        """Give the socket back; the owner's last call, when nobody reads or writes any more."""
        with self._ending:
            self.is_closed = True
            self._socket.close()


def accepted_from(listener: socket.socket) -> tuple[socket.socket, Any] | None:
    """Return the next waiting connection with its address, or None when there is none.

    Raises:
        Unavailable: this process or host has no room for another connection now.
    """
    try:
        return listener.accept()
    except (BlockingIOError, InterruptedError, ConnectionError):
        return None
    except OSError as error:
        raise Unavailable(f"A connection cannot be accepted: {error.strerror or error}.") from None


def _bytes_view(buffer: Buffer) -> memoryview:
    view = memoryview(buffer)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def without_prefix(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    """Return what is left of ``buffers`` when their first ``count`` bytes are gone."""
    for at, view in enumerate(buffers):
        if count < len(view):
            return [view[count:], *buffers[at + 1 :]]
        count -= len(view)
    return []


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))
