"""When a stream's engines may be started again after one of them failed.

Engines that fail together (a broken handler under four engines) are one failure: what fails while the stream already
waits adds nothing. A row of failures ends when an engine that became ready after the last of them has lived 30 s.

Pure: time is an argument and chance is given.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from harmonicio.core.back_off import delay_s

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
LIVED_S = 30.0


@dataclass(slots=True)
class BackOff:
    """One stream's failures in a row.

    Attributes:
        until: No engine starts before this moment.
        text: What the last failure was.
    """

    failures: int = 0
    failed_at: float = 0.0
    until: float = 0.0
    text: str = ""

    def fail(self, text: str, now: float, chance: random.Random) -> None:
        """An engine of the stream failed."""
        self.text = text
        self.failed_at = now
        if self.failures and now < self.until:
            return
        self.failures += 1
        self.until = now + delay_s(
            self.failures, first_s=FIRST_DELAY_S, longest_s=LONGEST_DELAY_S, chance=chance.random()
        )

    def survive(self, ready_at: float, now: float) -> None:
        """An engine of the stream is alive ``now`` and was ready at ``ready_at``."""
        if ready_at > self.failed_at and now - ready_at >= LIVED_S:
            self.failures = 0

    def may_start(self, now: float) -> bool:
        return not self.failures or now >= self.until

    def retry_in_s(self, now: float) -> float:
        return max(0.0, self.until - now) if self.failures else 0.0
