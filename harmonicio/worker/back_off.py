"""When a stream's engines may be started again after one of them failed.

    delay of the n-th failure in a row = 0.5 s * 2^(n-1), at most 30 s, less up to a quarter by chance

Engines that fail together (a broken handler under four engines) are one failure: what fails while the stream already
waits adds nothing. A row of failures ends when an engine that became ready after the last of them has lived 30 s.

Pure: time is an argument and chance is given.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
LIVED_S = 30.0
JITTER = 0.25


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
        longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self.failures, 30))
        self.failures += 1
        self.until = now + longest * (1.0 - JITTER * chance.random())

    def survive(self, ready_at: float, now: float) -> None:
        """An engine of the stream is alive ``now`` and was ready at ``ready_at``."""
        if ready_at > self.failed_at and now - ready_at >= LIVED_S:
            self.failures = 0

    def may_start(self, now: float) -> bool:
        return not self.failures or now >= self.until

    def retry_in_s(self, now: float) -> float:
        return max(0.0, self.until - now) if self.failures else 0.0
