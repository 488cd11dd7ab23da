"""A tier in memory: for tests, and for trying things out."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from harmonicio.core.errors import StorageError
from harmonicio.haste.registry import check_options


class MemoryTier:
    """Keeps payloads for as long as it lives, up to ``max_bytes``."""

    def __init__(self, name: str, max_bytes: int = 1024**3) -> None:
        self._name = name
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], bytes] = {}
        self._size_bytes = 0

    def __repr__(self) -> str:
        return f"<MemoryTier {self._name}: {len(self._kept)} payloads, {self._size_bytes} bytes>"

    def write(self, stream: str, message_id: str, payload: memoryview | bytes) -> str:
        kept = bytes(payload)
        with self._lock:
            before = len(self._kept.get((stream, message_id), b""))
            if self._size_bytes - before + len(kept) > self._max_bytes:
                raise StorageError(f"The tier {self._name!r} is full.", hint="Give it more max_bytes.")
            self._size_bytes += len(kept) - before
            self._kept[stream, message_id] = kept
        return f"{stream}/{message_id}"

    def read(self, location: str) -> bytes:
        with self._lock:
            kept = self._kept.get(_key(location))
        if kept is None:
            raise StorageError(f"The tier {self._name!r} has nothing at {location!r:.80}.")
        return kept

    def remove(self, location: str) -> None:
        with self._lock:
            self._size_bytes -= len(self._kept.pop(_key(location), b""))

    def contents(self, stream: str) -> Iterator[tuple[str, str]]:
        with self._lock:
            ids = sorted(message_id for its_stream, message_id in self._kept if its_stream == stream)
        for message_id in ids:
            yield message_id, f"{stream}/{message_id}"


def create(name: str, options: Mapping[str, Any]) -> MemoryTier:
    """Options: ``max_bytes``."""
    check_options(f"The memory tier {name!r}", options, ("max_bytes",))
    return MemoryTier(name, **options)


def _key(location: str) -> tuple[str, str]:
    stream, _, message_id = location.partition("/")
    return stream, message_id
