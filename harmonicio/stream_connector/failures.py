"""Failures that nobody has heard of yet: they are logged, and raised by ``flush``."""

from __future__ import annotations

import logging
from collections import deque

from harmonicio.stream_connector.delivery import Delivery, DeliveryState

_log = logging.getLogger(__name__)

#: More than that are logged only; ``flush`` raises anyway.
MAX_UNHEARD = 100_000


class Failures:
    """The failed deliveries of one connector that were not awaited; guarded by the connector's lock."""

    def __init__(self) -> None:
        self._unheard: list[Delivery] = []
        self._unlogged: deque[Delivery] = deque()

    def __repr__(self) -> str:
        return f"<Failures: {len(self._unheard)} unheard>"

    @property
    def has_unlogged(self) -> bool:
        return bool(self._unlogged)

    def add(self, delivery: Delivery) -> None:
        """A delivery has failed; who awaits it hears of that, and nobody else needs to."""
        if delivery.is_awaited:
            return
        self._unlogged.append(delivery)
        if len(self._unheard) < MAX_UNHEARD:
            self._unheard.append(delivery)

    def take(self, *states: DeliveryState) -> list[Delivery]:
        """Return those that came to one of these ends and were not awaited meanwhile, once."""
        left = [each for each in self._unheard if not each.is_awaited]
        self._unheard = [each for each in left if each.state not in states]
        return [each for each in left if each.state in states]

    def log(self) -> None:
        """Log each failure once; without the connector's lock."""
        while self._unlogged:
            try:
                delivery = self._unlogged.popleft()
            except IndexError:
                return  # Another thread has logged it.
            if not delivery.is_awaited:
                _log.error("%s", delivery.error())
