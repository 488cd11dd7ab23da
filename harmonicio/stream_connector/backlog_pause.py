"""How long the master is left alone after it could not take a message, and with which.

      full ──► nothing as large as what it refused goes for a moment; smaller ones may fit, and go
      else ──► nothing goes for a moment

In an ordered stream nothing goes in either case, because none may overtake another. Pure: ``now`` is monotonic seconds.
"""

from __future__ import annotations

#: How long the master is left alone after it could not take a message.
MASTER_PAUSE_S = 0.5


class BacklogPause:
    """What the master may be sent now.

    Attributes:
        keeps_order: The stream is ordered.
        ends_at: When everything may go again.
    """

    def __init__(self) -> None:
        self.keeps_order = False
        self.ends_at = 0.0
        self._below_bytes = 0

    def __repr__(self) -> str:
        return f"<BacklogPause until {self.ends_at:.3f}, but for less than {self._below_bytes} bytes>"

    def begin(self, until: float) -> None:
        """Nothing goes until then."""
        self.ends_at, self._below_bytes = max(self.ends_at, until), 0

    def is_full(self, size_bytes: int, now: float) -> None:
        """The master has no room for so many bytes."""
        below_bytes = min(size_bytes, self._below_bytes) if now < self.ends_at else size_bytes
        self.begin(now + MASTER_PAUSE_S)
        self._below_bytes = 0 if self.keeps_order else below_bytes

    def admits_nothing(self, now: float) -> bool:
        return not self._below_bytes and now < self.ends_at

    def admits(self, size_bytes: int, now: float) -> bool:
        """Whether a message of this size may go."""
        return now >= self.ends_at or size_bytes < self._below_bytes
