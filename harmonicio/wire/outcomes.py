"""Collects the outcomes of one connection into ranges.

The detail of an outcome (a result, a failure) is packed before or when it is added: whoever made it may change it
afterwards, and taking the frame cannot fail.
"""

from __future__ import annotations

from harmonicio.core.errors import InvalidInput
from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.wire.sections import outcomes_frame, packed_detail

DONE = Outcome(OutcomeKind.DONE)
STORED = Outcome(OutcomeKind.STORED)
#: Outcomes that carry a result or a failure are sent before they fill a frame.
FULL_AFTER_BYTES = 128 * 1024
FULL_AFTER_RANGES = 4096
#: Nothing larger goes with an outcome; a result has a limit of its own.
MAX_DETAIL_BYTES = 96 * 1024
_RANGE_BYTES = 24


class OutcomeBatch:
    """Outcomes that have not been sent yet; equal neighbours share a range.

    Attributes:
        is_full: Whether the batch should be sent before more is added.
    """

    __slots__ = ("_newest", "_ranges", "_size_bytes", "is_full")

    def __init__(self) -> None:
        self._ranges: list[_Range] = []
        self._newest: Outcome | None = None
        self._size_bytes = 0
        self.is_full = False

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __repr__(self) -> str:
        return f"<OutcomeBatch: {len(self._ranges)} ranges>"

    def add(self, sequence: int, outcome: Outcome, detail: bytes = b"") -> None:
        """Add one outcome.

        Args:
            sequence: Number of the message on its connection.
            outcome: Equal neighbours share a range when they are the same object, as ``DONE`` and ``STORED`` are.
            detail: Its detail as ``codec.pack_value`` made it; packed here when it is left out.

        Raises:
            InvalidInput: its detail cannot be sent, or is too large; nothing was added.
        """
        if outcome is self._newest:
            newest = self._ranges[-1]
            if newest.last + 1 == sequence:
                newest.last = sequence
                return
        detail = detail or packed_detail(outcome)
        if len(detail) > MAX_DETAIL_BYTES:
            raise InvalidInput(f"An outcome of {len(detail)} bytes cannot be sent.", hint="Return a smaller result.")
        self._ranges.append(_Range(sequence, outcome.kind, detail))
        self._newest = outcome
        self._size_bytes += len(detail) + _RANGE_BYTES
        self.is_full = self._size_bytes >= FULL_AFTER_BYTES or len(self._ranges) >= FULL_AFTER_RANGES

    def take_frame(self) -> bytes:
        """Return everything as one OUTCOMES frame, or as many as it needs, and start anew."""
        ranges, self._ranges, self._newest, self._size_bytes, self.is_full = self._ranges, [], None, 0, False
        return outcomes_frame([(each.first, each.last, each.kind, each.detail) for each in ranges])


class _Range:
    """Equal neighbours; it grows at its end."""

    __slots__ = ("detail", "first", "kind", "last")

    def __init__(self, sequence: int, kind: OutcomeKind, detail: bytes) -> None:
        self.first = self.last = sequence
        self.kind = kind
        self.detail = detail
