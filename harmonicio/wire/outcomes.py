"""Collects the outcomes of one connection into ranges."""

from __future__ import annotations

from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.wire.sections import outcomes_frame

DONE = Outcome(OutcomeKind.DONE)
STORED = Outcome(OutcomeKind.STORED)
#: Outcomes that carry a result or a failure are sent before they fill a frame.
FULL_AFTER_BYTES = 128 * 1024


class OutcomeBatch:
    """Outcomes that have not been sent yet; equal neighbours share a range."""

    __slots__ = ("_ranges", "_size_bytes")

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int, Outcome]] = []
        self._size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __repr__(self) -> str:
        return f"<OutcomeBatch: {len(self._ranges)} ranges>"

    @property
    def is_full(self) -> bool:
        """Whether the batch should be sent before more is added."""
        return self._size_bytes >= FULL_AFTER_BYTES or len(self._ranges) >= 4096

    def add(self, sequence: int, outcome: Outcome, detail_bytes: int = 0) -> None:
        """Add one outcome; ``detail_bytes`` is about how much room its detail takes in the frame."""
        if self._ranges:
            first, last, before = self._ranges[-1]
            if last + 1 == sequence and outcome is before:
                self._ranges[-1] = (first, sequence, outcome)
                return
        self._ranges.append((sequence, sequence, outcome))
        self._size_bytes += detail_bytes + 16

    def take_frame(self) -> bytes:
        """Return everything as one OUTCOMES frame and start anew."""
        ranges, self._ranges, self._size_bytes = self._ranges, [], 0
        return outcomes_frame(ranges)
