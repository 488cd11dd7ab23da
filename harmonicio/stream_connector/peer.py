"""One open connection of the connector: writes what it was assigned, without ever waiting for the other side.

Any thread may :meth:`flush`; one writes at a time. What the kernel does not take stays here, and the I/O thread goes on
when there is room again. Many small messages leave in one call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from harmonicio.core.errors import ConnectionEnded
from harmonicio.stream_connector.dispatch import Assignment, Lane, Parcel
from harmonicio.transport.channel import MAX_BUFFERS, without_prefix
from harmonicio.transport.link import Link
from harmonicio.wire.checksum import trailer
from harmonicio.wire.connection import message_prefix
from harmonicio.wire.sections import subscribe_frame

#: Small messages are gathered up to this size for one call.
BATCH_BYTES = 512 * 1024


class Peer:
    """A link to an engine or to the master's data port, with what is still to be written.

    Args:
        checksum_flag: Flag of the checksum that both ends agreed on, 0 for none.
        max_message_bytes: What the other side takes at most.
        lease: The lease that the connection was opened with; empty for the master's.
        on_blocked: Called when the kernel takes no more: somebody must flush again when it does.
    """

    def __init__(
        self,
        link: Link,
        lane: Lane,
        *,
        checksum_flag: int,
        max_message_bytes: int,
        lease: str,
        on_blocked: Callable[[Peer], None],
    ) -> None:
        self.link = link
        self.lane = lane
        self.lease = lease
        self.max_message_bytes = max_message_bytes
        self.is_blocked = False
        self.is_ended = False
        self._checksum_flag = checksum_flag
        self._on_blocked = on_blocked
        self._writing = threading.Lock()
        self._outbox: deque[Parcel | bytes] = deque()
        self._pending: list[memoryview] = []

    def __repr__(self) -> str:
        state = "ended" if self.is_ended else "blocked" if self.is_blocked else "open"
        return f"<Peer {self.lane.name} {state}: {len(self._outbox)} to write, {self.lane.credit!r}>"

    def assign(self, assignment: Assignment) -> None:
        """Have a message written next. Called in the order of the sequence numbers, under the connector's lock."""
        self._outbox.append(assignment.parcel)

    def subscribe(self, message_ids: list[str]) -> None:
        """Ask the master for final outcomes. Called under the connector's lock."""
        self._outbox.append(subscribe_frame(message_ids))

    def flush(self) -> None:
        """Write as much as the kernel takes.

        Raises:
            ConnectionEnded: the connection broke.
        """
        while self._outbox or self._pending:
            if not self._writing.acquire(blocking=False):
                return  # Whoever writes sees what was added, because they look again after letting go.
            try:
                is_empty = self._write()
            finally:
                self._writing.release()
            if not is_empty:
                self.is_blocked = True
                self._on_blocked(self)
                return

    def _write(self) -> bool:
        """Write until nothing is left, or the kernel takes no more; return whether nothing is left."""
        while self._pending or self._outbox:
            if not self._pending:
                self._gather()
            size = sum(map(len, self._pending))
            count = self.link.channel.try_send(self._pending)
            self._pending = without_prefix(self._pending, count)
            if count < size and self._pending and count == 0:
                return False
        return True

    def _gather(self) -> None:
        size = 0
        while self._outbox and size < BATCH_BYTES and len(self._pending) < MAX_BUFFERS - 3:
            item = self._outbox.popleft()
            if isinstance(item, bytes):
                self._pending.append(memoryview(item))
                continue
            self._pending.append(memoryview(self._prefix(item)))
            if item.size_bytes:
                self._pending.append(item.payload)
            if self._checksum_flag:
                self._pending.append(memoryview(trailer(self._checksum_flag, item.payload)))
            size += item.size_bytes

    def _prefix(self, parcel: Parcel) -> bytes:
        return message_prefix(
            parcel.delivery.message_id,
            parcel.size_bytes,
            metadata=parcel.metadata,
            priority=parcel.priority,
            flags=parcel.flags | self._checksum_flag,
            attempts=parcel.attempts,
            crashes=parcel.crashes,
            failure=parcel.failure,
        )

    def say_goodbye(self) -> None:
        """Tell the other side that nothing follows, if it still listens and nothing is half written."""
        with self._writing:
            if self._pending or self.is_ended:
                return
            try:
                self.link.channel.try_send([memoryview(self.link.connection.goodbye())])
            except ConnectionEnded:
                return  # It has gone already.
