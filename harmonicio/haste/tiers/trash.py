"""The tier for what is not worth keeping: nothing is kept, only the feature row remains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harmonicio.core.errors import StorageError
from harmonicio.haste.registry import check_options


class TrashTier:
    """Forgets every payload."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<TrashTier {self._name}>"

    def write(self, stream: str, message_id: str, payload: memoryview | bytes) -> str:
        return ""

    def read(self, location: str) -> bytes:
        raise StorageError(f"The tier {self._name!r} keeps nothing.")

    def remove(self, location: str) -> None:
        """There is nothing to remove."""

    def contents(self, stream: str) -> Iterator[tuple[str, str]]:
        return iter(())


def create(name: str, options: Mapping[str, Any]) -> TrashTier:
    """No options."""
    check_options(f"The trash tier {name!r}", options, ())
    return TrashTier(name)
