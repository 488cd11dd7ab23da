"""The tier for what is not worth keeping: nothing is kept, only the feature row remains."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from harmonicio.core.errors import StorageError
from harmonicio.haste.options import check_options
from harmonicio.haste.tiers.base import Kept


class TrashTier:
    """Forgets every payload, and counts them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self.forgotten = 0

    def __repr__(self) -> str:
        return f"<TrashTier {self._name}: {self.forgotten} payloads forgotten>"

    def write(self, stream: str, message_id: str, payload: memoryview | bytes) -> str:
        with self._lock:
            self.forgotten += 1
        return ""

    def read(self, location: str) -> bytes:
        raise StorageError(f"The tier {self._name!r} keeps nothing.")

    def remove(self, location: str) -> None:
        """There is nothing to remove."""

    def contents(self, stream: str) -> Iterator[Kept]:
        return iter(())


def create(name: str, options: Mapping[str, Any]) -> TrashTier:
    """No options."""
    check_options(f"The trash tier {name!r}", options, ())
    return TrashTier(name)
