"""Makes of what a source sends what can be sent: checked, with an id, kept in the spool where there is one."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

from harmonicio.core.buffers import Payload
from harmonicio.core.errors import HarmonicIOError, InvalidInput
from harmonicio.core.message import MAX_MESSAGE_BYTES, MAX_PRIORITY, MIN_PRIORITY, MessageIds
from harmonicio.core.names import check_message_id
from harmonicio.stream_connector.allocation import Allocation
from harmonicio.stream_connector.arena_slots import ArenaSlot
from harmonicio.stream_connector.delivery import Awaiting, Delivery
from harmonicio.stream_connector.exchange import Exchange
from harmonicio.stream_connector.known_ids import KnownIds, digest_of
from harmonicio.stream_connector.lanes import Parcel
from harmonicio.stream_connector.sources import FileSource
from harmonicio.stream_connector.spool.records import Draft, Record
from harmonicio.stream_connector.spool.spool import Entry, Spool
from harmonicio.wire.sections import source_section

_log = logging.getLogger(__name__)


class Outgoing:
    """The way of one connector's messages from ``send`` to the exchange.

    Args:
        owner: Whom deliveries ask for their outcome.
        knows_ids: Whether a second copy of a message is recognised by the source's own id.
    """

    def __init__(self, owner: Awaiting, exchange: Exchange, spool: Spool | None, *, knows_ids: bool) -> None:
        self._owner = owner
        self._exchange = exchange
        self._spool = spool
        self._ids = MessageIds()
        self._known = KnownIds() if knows_ids else None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._sending: dict[str, Delivery] = {}

    def __repr__(self) -> str:
        return f"<Outgoing: {self._known!r}, {self._spool!r}>"

    def send(
        self,
        payload: Payload | FileSource,
        metadata: Mapping[str, Any] | None,
        priority: int,
        message_id: str | None,
        slot: ArenaSlot | None = None,
    ) -> Delivery:
        """Send one message; what was sent before is not sent again.

        Args:
            slot: Where its payload lies in shared memory, if it does.
        """
        size_bytes = len(payload) if isinstance(payload, (bytes, memoryview)) else payload.size_bytes
        is_usual = type(priority) is int and not priority and size_bytes <= MAX_MESSAGE_BYTES
        if not is_usual or (metadata is not None and type(metadata) is not dict):
            check_arguments(metadata, priority, size_bytes)
        if message_id is None:
            raw_id = self._ids.draw_raw()
            delivery = Delivery(self._owner, raw_id, size_bytes)
            parcel = Parcel(delivery, payload, source_section(metadata, "") if metadata else b"", priority)
            parcel.raw_id = raw_id
            if slot is not None:
                parcel.slot = slot
            if self._spool is not None:
                return self._send(parcel, b"")
            self._exchange.offer(parcel)
            return delivery
        return self._send_named(payload, metadata, priority, message_id, slot, size_bytes)

    def send_allocated(
        self, allocation: Allocation, metadata: Mapping[str, Any] | None, priority: int, message_id: str | None
    ) -> Delivery:
        """Send one message that was made where it lies; for the rest as :meth:`send`."""
        return allocation.send_by(lambda content, slot: self.send(content, metadata, priority, message_id, slot))

    def _send_named(
        self,
        payload: Payload | FileSource,
        metadata: Mapping[str, Any] | None,
        priority: int,
        message_id: str,
        slot: ArenaSlot | None,
        size_bytes: int,
    ) -> Delivery:
        """Send one message that has the source's own id, unless it was sent before."""
        section = source_section(metadata, check_message_id(message_id))
        delivery = Delivery(self._owner, message_id, size_bytes)
        parcel = Parcel(delivery, payload, section, priority)
        parcel.slot = slot
        if self._known is None:
            return self._send(parcel, b"")
        digest = digest_of(payload)
        try:
            with self._changed:
                # Whether an earlier copy that is just being sent will be kept, nobody knows yet.
                self._changed.wait_for(lambda: message_id not in self._sending)
                earlier = self._known.find(self._owner, message_id, digest)
                if earlier is not None:
                    return earlier
                self._known.note(delivery, digest)
                self._sending[message_id] = delivery
            return self._send(parcel, digest)
        except BaseException:
            self.forget(delivery)
            raise
        finally:
            with self._changed:
                if self._sending.get(message_id) is delivery:
                    del self._sending[message_id]
                    self._changed.notify_all()

    def forget(self, delivery: Delivery) -> None:
        """Nobody has this message: it is sent when the source sends it again, with these or other bytes."""
        if self._known is not None:
            with self._lock:
                self._known.forget(delivery)

    def close(self) -> None:
        """Nobody sends any more."""
        if self._known is not None:
            with self._lock:
                self._known.let_go()

    def restore(self) -> int:
        """Send what is in the spool from before; return how many messages that is.

        Raises:
            Conflict: another connector has the spool.
            StorageError: it cannot be used.
        """
        if self._spool is None or self._spool.is_open:
            return 0
        parcels = [self._restored(entry) for entry in self._spool.open()]
        self._exchange.restore(parcels)
        if parcels:
            text = "%d messages that were not safe are in the spool %s and are sent first"
            _log.warning(text, len(parcels), self._spool.folder)
        return len(parcels)

    def _restored(self, entry: Entry) -> Parcel:
        record = entry.record
        delivery = Delivery(self._owner, record.message_id, record.size_bytes)
        if record.digest and self._known is not None:
            self._known.hold(delivery, record.digest)
        parcel = Parcel(delivery, entry.payload, record.section, record.priority)
        parcel.entry = entry
        parcel.leave_memory(entry.payload)
        return parcel

    def _send(self, parcel: Parcel, digest: bytes) -> Delivery:
        if self._spool is not None:
            self._keep(self._spool, parcel, digest)
        try:
            self._exchange.offer(parcel)
        except HarmonicIOError:
            if self._spool is None or parcel.entry is None:
                raise
            if not self._exchange.is_closed:  # Else it stays, and the next connector sends it.
                self._spool.settle([(parcel.entry, "")])
                raise
        return parcel.delivery

    def _keep(self, spool: Spool, parcel: Parcel, digest: bytes) -> None:
        payload, delivery = parcel.payload, parcel.delivery
        path, changed_ns, written = b"", 0, payload
        if isinstance(payload, FileSource):
            path, changed_ns, written = os.fsencode(os.path.abspath(payload.path)), payload.changed_ns, b""
        record = Record(
            delivery.message_id, parcel.priority, parcel.section, parcel.size_bytes, digest, path, changed_ns
        )
        draft = Draft(record, written)
        self._exchange.wait_for_room(lambda: spool.reserve(draft))
        parcel.entry = spool.keep(record, draft)
        if path or not self._exchange.has_memory(parcel):
            parcel.leave_memory(parcel.entry.payload)


def check_arguments(metadata: object, priority: object, size_bytes: int = 0) -> None:
    """Raise InvalidInput when no message can be sent with these."""
    if metadata is not None and not isinstance(metadata, (dict, Mapping)):  # Nearly all are a dict, which is told fast.
        raise InvalidInput(
            f"Metadata is a mapping of names to values, not {type(metadata).__name__}.",
            hint='For example metadata={"well": "B03"}.',
        )
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise InvalidInput(
            f"A priority is a whole number, not {priority!r:.40}.", hint="Larger goes first; 0 is usual."
        )
    if size_bytes > MAX_MESSAGE_BYTES or not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        raise InvalidInput(
            f"A message of {size_bytes} bytes and priority {priority} cannot be sent.",
            hint=f"At most {MAX_MESSAGE_BYTES} bytes, and priorities from {MIN_PRIORITY} to {MAX_PRIORITY}.",
        )
