"""A wire connection on a channel: what both ends of a data connection hold.

One thread reads, any thread may send; writes are kept whole by a lock.
"""

from __future__ import annotations

import threading
import time

from harmonicio.core.errors import ConnectionEnded, HarmonicIOError, NotAllowed, RemoteProtocolError
from harmonicio.transport.channel import Buffer, Channel
from harmonicio.wire.connection import Connection, State
from harmonicio.wire.events import Event, Goodbye, Hello, Role

GREETING_WITHIN_S = 10.0


class Link:
    """One end of a data connection.

    Args:
        channel: The byte stream; the link owns it.
        dialler_role: This end's role when it dialled, None when it listened.
    """

    def __init__(self, channel: Channel, dialler_role: Role | None = None) -> None:
        self.channel = channel
        self.connection = Connection(dialler_role)
        self._sending = threading.Lock()
        self.received_bytes = 0

    def __repr__(self) -> str:
        return f"<Link to {self.channel.peer}: {self.connection!r}>"

    # ── reading: one thread ──────────────────────────────────────────────────────────────────────────────────────────

    def next_event(self) -> Event | None:
        """Return the next event out of what has been read; None when more must be read."""
        return self.connection.next_event()

    def read(self) -> bool:
        """Read once. Return False when nothing came for a moment.

        Raises:
            ConnectionEnded: the stream broke or ended inside a frame.
        """
        count = self.channel.receive_into(self.connection.receive_buffer())
        if count is None:
            return False
        self.received_bytes += count
        self.connection.bytes_received(count)
        if count == 0:
            self._ended()
        return True

    def receive_payload(self, buffer: memoryview) -> None:
        """Fill ``buffer``, which is exactly as long as the payload, with the payload that has begun.

        Raises:
            ConnectionEnded: the stream broke, ended or was too slow.
        """
        self.connection.provide_payload_buffer(buffer)
        if not self.connection.is_in_payload:
            return
        rest = self.connection.receive_buffer()
        count = self.channel.receive_exactly(rest)
        self.received_bytes += count
        self.connection.bytes_received(count)
        if count < len(rest):
            self._ended()

    def _ended(self) -> None:
        if self.connection.end_of_stream() is not None:
            raise ConnectionEnded(f"{self.channel.peer} closed the connection.")

    # ── writing: any thread ──────────────────────────────────────────────────────────────────────────────────────────

    def send(self, *buffers: Buffer) -> None:
        """Send the buffers as one piece.

        Raises:
            ConnectionEnded: the stream broke or was too slow; the connection is of no further use.
        """
        with self._sending:
            self.channel.send_all(buffers)

    def say_goodbye(self, code: str = "", text: str = "", hint: str = "") -> None:
        """End this side of the connection with a reason, as far as the peer still listens."""
        try:
            self.send(self.connection.goodbye(code, text, hint))
        except HarmonicIOError:
            return  # The peer is gone already; its end needs no reason.
        self.channel.finish_sending()

    # ── greeting ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def greet(self, hello: Hello, *, within_s: float = GREETING_WITHIN_S) -> Hello:
        """Introduce this end to the listener that it dialled and return the listener's HELLO.

        Raises:
            NotAllowed: the listener refused, with its reason.
            ConnectionEnded: it did not answer.
        """
        self.send(self.connection.hello(hello))
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            event = self.next_event()
            if isinstance(event, Hello):
                return event
            if isinstance(event, Goodbye):
                raise _refusal(event, self.channel.peer)
            if event is None:
                self.read()
        raise ConnectionEnded(f"{self.channel.peer} did not answer HELLO within {within_s:.0f} s.")

    @property
    def is_open(self) -> bool:
        return self.connection.state is State.OPEN

    def close(self) -> None:
        """Give the socket back."""
        self.channel.close()


def _refusal(goodbye: Goodbye, peer: str) -> HarmonicIOError:
    text = f"{peer} refused the connection: {goodbye.text or goodbye.code or 'no reason given'}"
    if goodbye.code == "not_allowed":
        return NotAllowed(text, hint=goodbye.hint)
    if goodbye.code == "protocol":
        return RemoteProtocolError(text, hint=goodbye.hint)
    return ConnectionEnded(text, hint=goodbye.hint)
