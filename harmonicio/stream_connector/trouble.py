"""A master that cannot be reached: how long to wait before the next try, and what people hear of it."""

from __future__ import annotations

import logging
import random
import time

from harmonicio.core.back_off import full_jitter_s
from harmonicio.core.errors import HarmonicIOError, Unavailable

_log = logging.getLogger(__name__)

#: The pause is anywhere between the least one and a bound that is doubled each time: who lost the same master at the
#: same moment does not come back at the same moment.
RETRY_LEAST_S, RETRY_FIRST_S, RETRY_MAX_S = 0.02, 0.1, 5.0
WARN_AFTER_S = 5.0


class Trouble:
    """How long the master has not been reached: the pauses grow, and people hear of it once.

    Args:
        url: The master's address, for the warning.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._failures = 0
        self._since: float | None = None
        self._has_warned = False
        self.text = ""

    @property
    def lasts_s(self) -> float:
        """How long the master has not been reached."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def over(self) -> None:
        """It was reached."""
        if self._has_warned:
            _log.warning("The master at %s answers again.", self._url)
        self._failures, self._since, self._has_warned, self.text = 0, None, False, ""

    def pause_s(self, error: HarmonicIOError) -> float:
        """Return how long to wait after this failure."""
        now = time.monotonic()
        self.text = str(error)
        self._failures += 1
        self._since = now if self._since is None else self._since
        if now - self._since >= WARN_AFTER_S and not self._has_warned:
            self._has_warned = True
            _log.warning("%s Trying again at %s; messages wait meanwhile.", error, self._url)
        chance = random.random()
        if isinstance(error, Unavailable) and error.retry_after_s is not None:
            # It says so to many at once.
            return min(error.retry_after_s, RETRY_MAX_S) * (1.0 + chance)
        pause_s = full_jitter_s(self._failures, first_s=RETRY_FIRST_S, longest_s=RETRY_MAX_S, chance=chance)
        return max(pause_s, RETRY_LEAST_S)
