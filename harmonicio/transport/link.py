"""A wire connection on a channel: what both ends of a data connection hold.

One thread reads, any thread may send; writes are kept whole by a lock. A write that did not finish ends the connection:
whatever were sent after it would be taken for the rest of it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from harmonicio.core.errors import PASSED_ON, ConnectionEnded, HarmonicIOError
from harmonicio.transport.busy_poll import BusyPoll
from harmonicio.transport.channel import Buffer, Channel
from harmonicio.wire.connection import HANDSHAKE_LIMIT_BYTES, Connection, State
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
        self._is_cut = False
        self._has_said_goodbye = False
        self._polling = BusyPoll()
        self._may_poll = False
        self.received_bytes = 0

    def __repr__(self) -> str:
        return f"<Link to {self.channel.peer}: {self.connection!r}>"

    # ── reading: one thread ──────────────────────────────────────────────────────────────────────────────────────────

    def next_event(self) -> Event | None:
        """Return the next event out of what has been read; None when more must be read."""
        return self.connection.next_event()

    def read(self, *, may_poll: bool = False) -> bool:
        """Read once. Return False when nothing came for ``channel.RECEIVE_SLICE_S``.

        Args:
            may_poll: Whether this thread has the processor for itself, as far as the caller knows.

        Raises:
            ConnectionEnded: the stream broke, or it ended.
        """
        buffer, begun = self.connection.receive_buffer(), time.monotonic()
        begins_frame = self.connection.is_between_frames
        self._may_poll = may_poll and self._polling.is_due
        count = self.channel.poll_into(buffer, self._polling) if self._may_poll else None
        if count is None:
            count = self.channel.receive_into(buffer)
        if begins_frame or not count:  # How long the rest of a message takes says nothing of when the next one comes.
            self._polling.waited(time.monotonic() - begun if count else math.inf)
        if count is None:
            return False
        self.received_bytes += count
        self.connection.bytes_received(count)
        if count == 0:
            raise self._ended()
        return True

    def read_at_once(self) -> bool:
        """Read what is here already. Return False when nothing is, or when the connection has ended.

        Raises:
            ConnectionEnded: the stream broke.
        """
        connection = self.connection
        if connection.state is State.CLOSED:
            return False
        count = self.channel.try_receive(connection.receive_buffer())
        if not count:
            return False  # The end is seen by who reads next.
        self.received_bytes += count
        connection.bytes_received(count)
        return True

    def receive_payload(self, buffer: memoryview, *, on_progress: Callable[[int], None] | None = None) -> None:
        """Fill ``buffer``, which is exactly as long as the payload, with the payload that has begun.

        The message itself is the next event. :meth:`Channel.shutdown` from another thread ends the wait.

        Args:
            on_progress: Called with the number of bytes that are in the buffer, as they arrive.

        Raises:
            ConnectionEnded: the stream broke, ended or was too slow.
        """
        self.connection.provide_payload_buffer(buffer)
        if not self.connection.is_in_payload:
            return
        rest = self.connection.receive_buffer()
        here = len(buffer) - len(rest)
        if on_progress is not None:
            on_progress(here)
        more_came = on_progress and (lambda more: on_progress(here + more))
        polling = self._polling if self._may_poll else None
        count = self.channel.receive_exactly(rest, on_progress=more_came, polling=polling)
        self.received_bytes += count
        self.connection.bytes_received(count)
        if count < len(rest):
            raise self._ended()

    def rest(self) -> None:
        """Keep as little memory as possible until more is read."""
        self.connection.rest()

    def _ended(self) -> ConnectionEnded:
        try:
            self.connection.end_of_stream()
        except ConnectionEnded as error:
            return ConnectionEnded(f"{self.channel.peer}: {error.text}")
        return ConnectionEnded(f"{self.channel.peer} closed the connection.")

    # ── writing: any thread ──────────────────────────────────────────────────────────────────────────────────────────

    def send(self, *buffers: Buffer) -> None:
        """Send the buffers as one piece.

        Raises:
            ConnectionEnded: the stream broke or was too slow; the connection is of no further use.
        """
        with self._sending:
            if self._is_cut:
                raise ConnectionEnded(f"The connection to {self.channel.peer} has ended.")
            is_whole = False
            try:
                self.channel.send_all(buffers)
                is_whole = True
            finally:
                if not is_whole:
                    self._is_cut = True
                    self.channel.shutdown()

    def say_goodbye(self, code: str = "", text: str = "", hint: str = "") -> None:
        """End this side of the connection with a reason, as far as the peer still listens."""
        try:
            self.send(self.connection.goodbye(code, text, hint))
        except ConnectionEnded:
            return  # The peer is gone already; its end needs no reason.
        self.channel.finish_sending()
        self._has_said_goodbye = True

    # ── greeting ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def greet(
        self,
        hello: Hello,
        *,
        within_s: float = GREETING_WITHIN_S,
        is_wanted: Callable[[], bool] = lambda: True,
        send_first: Callable[[bytes], None] | None = None,
    ) -> Hello:
        """Introduce this end to the listener that it dialled and return the listener's HELLO.

        When this fails, the link is of no further use, but still the caller's to close.

        Args:
            is_wanted: Asked now and then; False gives up.
            send_first: Sends the HELLO, where something goes along with it.

        Raises:
            HarmonicIOError: the listener refused, with its reason; the kind that its GOODBYE names.
            ConnectionEnded: it did not answer.
        """
        (send_first or self.send)(self.connection.hello(hello))
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and is_wanted():
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
        """Give the socket back. The reader's last call; whoever sends at that time gets ConnectionEnded.

        After GOODBYE this waits for the peer's end, at most ``channel.DISCARD_WITHIN_S``; for a stranger's it does not
        wait, and reads no more of him than a HELLO may have.
        """
        if self._has_said_goodbye and self.connection.was_open:
            self.channel.discard_briefly()
        elif self._has_said_goodbye:
            self.channel.discard_what_is_here(HANDSHAKE_LIMIT_BYTES - self.received_bytes)
        self.channel.shutdown()
        with self._sending:
            self._is_cut = True
            self.channel.close()
        self.connection.forget_payload()


def _refusal(goodbye: Goodbye, peer: str) -> HarmonicIOError:
    text = f"{peer} refused the connection: {goodbye.text or goodbye.code or 'no reason given'}"
    return PASSED_ON.get(goodbye.code, ConnectionEnded)(text, hint=goodbye.hint)
