"""How long a message waits for an engine before it goes to the backlog.

      limit   = the larger of 50 ms and twice the interval between credits; at most 50 ms when half of the budget waits
      is over = the oldest message has waited for the limit, and the engines will not have taken everything soon,
                or have not taken that one although they should have by then: others went before it

Both figures are measured here: the interval between credits while engines are at work, and the rate of their answers.
Pure: ``now`` is monotonic seconds.
"""

from __future__ import annotations

import math

MIN_PATIENCE_S = 0.05
#: What engines will have taken within this time, at the rate measured, is not worth the way over the master's disk.
DRAINS_SOON_S = 0.5
#: The rate is measured over at least, and believed for at most, so long.
RATE_EVERY_S, RATE_VALID_S = 0.02, 0.25
#: Weight of the newest interval between credits in their average.
NEWEST = 0.2


class Patience:
    """Measures, and says when patience is over.

    Args:
        fixed_s: The limit, where somebody has set it; None measures.
    """

    def __init__(self, fixed_s: float | None = None) -> None:
        self._fixed_s = fixed_s
        self._interval_s = 0.0
        self._credited_at: float | None = None
        self._answers_per_s = 0.0
        self._answered_since = 0
        self._measured_at = -math.inf

    def __repr__(self) -> str:
        return f"<Patience of {self.limit_s():.3f} s, {self._answers_per_s:.0f} answers/s>"

    def limit_s(self, is_crowded: bool = False) -> float:
        """Return how long the oldest message waits at most."""
        limit_s = max(MIN_PATIENCE_S, 2 * self._interval_s) if self._fixed_s is None else self._fixed_s
        return min(MIN_PATIENCE_S, limit_s) if is_crowded else limit_s

    def is_over(self, offered_at: float, waiting: int, now: float, *, is_crowded: bool) -> bool:
        """Whether ``waiting`` messages, the oldest since ``offered_at``, should not wait for engines any more."""
        limit_ends_at, excuse_ends_at, rate_ends_at = self.due_at(offered_at, is_crowded)
        if not limit_ends_at <= now < excuse_ends_at:
            return now >= excuse_ends_at
        is_measured = now < rate_ends_at and self._answers_per_s > 0
        return not is_measured or waiting / self._answers_per_s > DRAINS_SOON_S

    def due_at(self, offered_at: float, is_crowded: bool) -> tuple[float, float, float]:
        """Return the times at which :meth:`is_over` may change by itself."""
        limit_ends_at = offered_at + self.limit_s(is_crowded)
        return limit_ends_at, limit_ends_at + DRAINS_SOON_S, self._measured_at + RATE_VALID_S

    def credited(self, now: float, *, is_busy: bool) -> None:
        """An engine gave credit; an interval counts only if engines were at work all the time."""
        if self._credited_at is not None:
            interval_s = now - self._credited_at
            self._interval_s += (NEWEST if self._interval_s else 1.0) * (interval_s - self._interval_s)
        self._credited_at = now if is_busy else None

    def rested(self) -> None:
        """The engines have nothing to do."""
        self._credited_at = None

    def forget(self) -> None:
        """There is no engine any more of which the measurements could tell something."""
        self._interval_s, self._credited_at = 0.0, None

    def answered(self, answers: int, now: float) -> None:
        """The engines have answered so many messages more."""
        self._answered_since += answers
        elapsed_s = now - self._measured_at
        if elapsed_s < RATE_EVERY_S:
            return
        rate, is_recent = self._answered_since / elapsed_s, elapsed_s < RATE_VALID_S
        self._answers_per_s = (self._answers_per_s + rate) / 2 if is_recent and self._answers_per_s else rate
        self._answered_since, self._measured_at = 0, now

    def hurry(self) -> None:
        """From now on the limit is 50 ms at most."""
        self._fixed_s = min(MIN_PATIENCE_S, self.limit_s())
