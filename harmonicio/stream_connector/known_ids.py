"""The ids that a source gave its messages, so that a second copy is recognised before it is sent.

      the same bytes   ──► the delivery of the first copy; where nobody holds that any more, one whose outcome is gone
      other bytes      ──► refused: id_conflict
      nobody can tell  ──► sent; the master and the feature row recognise it, too

What a spool has from before nobody holds: it is held here until its source asks for it, so that it hears the outcome.
Ids of our own are never drawn twice and so not remembered. Pure; the connector calls under its lock.
"""

from __future__ import annotations

from weakref import ReferenceType, ref

from harmonicio.core.buffers import Payload
from harmonicio.core.errors import MessageRejected
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.stream_connector.delivery import HINTS, Awaiting, Delivery, DeliveryState
from harmonicio.stream_connector.sources import FileSource
from harmonicio.wire import checksum

MAX_REMEMBERED = 100_000
_SAFE = (
    "was sent before, and is with the master or has come to its end; which is not known here any more, because nobody "
    "has held its delivery."
)
_FILE = b"f"
_SIZE_END = 1 + 8


def digest_of(payload: Payload | FileSource) -> bytes:
    """Return what tells payloads apart: algorithm, size and checksum; of a large file the time of its last change."""
    if isinstance(payload, FileSource):
        return _FILE + payload.size_bytes.to_bytes(8, "big") + payload.changed_ns.to_bytes(12, "big", signed=True)
    name = checksum.SUPPORTED[0]
    return name[:1].encode() + len(payload).to_bytes(8, "big") + checksum.trailer(checksum.FLAG_OF[name], payload)


class KnownIds:
    """The last ids of one connector."""

    def __init__(self, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._known: dict[str, tuple[bytes, ReferenceType[Delivery]]] = {}
        self._held: dict[str, tuple[bytes, Delivery]] = {}

    def __repr__(self) -> str:
        return f"<KnownIds: {len(self._known)}, {len(self._held)} held>"

    def note(self, delivery: Delivery, digest: bytes) -> None:
        """This message is sent."""
        self._held.pop(delivery.message_id, None)
        self._known.pop(delivery.message_id, None)
        self._known[delivery.message_id] = (digest, ref(delivery))
        if len(self._known) > self._max_remembered:
            del self._known[next(iter(self._known))]

    def hold(self, delivery: Delivery, digest: bytes) -> None:
        """This message is sent again by its connector; its source, which began anew, may ask for it."""
        self._held[delivery.message_id] = (digest, delivery)

    def let_go(self) -> None:
        """Nobody will ask any more."""
        self._held.clear()

    def forget(self, delivery: Delivery) -> None:
        """It was not sent, or nobody has taken it: the source may send it again."""
        held = self._held.get(delivery.message_id)
        if held is not None and held[1] is delivery:
            del self._held[delivery.message_id]
        known = self._known.get(delivery.message_id)
        if known is not None and known[1]() is delivery:
            del self._known[delivery.message_id]

    def find(self, owner: Awaiting, message_id: str, digest: bytes) -> Delivery | None:
        """Return the delivery of a message that was sent before; None: it is to be sent.

        Raises:
            MessageRejected: it was sent with other bytes.
        """
        held = self._held.get(message_id)
        if held is None and message_id not in self._known:
            return None
        before, reference = self._known[message_id] if held is None else (held[0], ref(held[1]))
        is_other = before[1:_SIZE_END] != digest[1:_SIZE_END]
        if not is_other and before != digest:
            if before[:1] != digest[:1] or digest[:1] == _FILE:
                return None  # Checksums of two kinds, or a file that was touched: it may be the same.
            is_other = True
        if is_other:
            raise MessageRejected(
                f"Message id {message_id!r} was used before, with other bytes.",
                reason=RejectReason.ID_CONFLICT,
                hint=HINTS[RejectReason.ID_CONFLICT],
            )
        delivery = reference()
        if held is not None:
            self.note(held[1], before)  # Who asks has it from now on.
        if delivery is None:
            delivery = Delivery(owner, message_id, int.from_bytes(digest[1:_SIZE_END], "big"))
            delivery.settle(DeliveryState.EXPIRED, Outcome(OutcomeKind.STORED, text=_SAFE))
            delivery.released = True
        return None if delivery.state is DeliveryState.REJECTED else delivery
