"""A tier in memory: for tests, and for trying things out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from harmonicio.core.errors import StorageError
from harmonicio.core.names import check_name
from harmonicio.haste.options import check_options, count_option
from harmonicio.haste.tiers.base import Kept

MAX_BYTES = 1024**3


class MemoryTier:
    """Keeps payloads for as long as it lives, up to ``max_bytes``."""

    def __init__(self, name: str, max_bytes: int = MAX_BYTES) -> None:
        self._name = name
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[bytes, float]] = {}
        self._size_bytes = 0

    def __repr__(self) -> str:
        return f"<MemoryTier {self._name}: {len(self._kept)} payloads, {self._size_bytes} bytes>"

    def write(self, stream: str, message_id: str, payload: memoryview | bytes) -> str:
        kept = bytes(payload)
        location = f"{check_name('stream', stream)}/{message_id}"
        with self._lock:
            if self._kept.get(location, (kept,))[0] != kept:
                location = f"{location}~{blake2b(kept, digest_size=16).hexdigest()}"
            self._keep(location, kept)
        return location

    def read(self, location: str) -> bytes:
        with self._lock:
            kept = self._kept.get(location)
        if kept is None:
            raise StorageError(f"The tier {self._name!r} has nothing at {location!r:.80}.")
        return kept[0]

    def remove(self, location: str) -> None:
        with self._lock:
            self._size_bytes -= len(self._kept.pop(location, (b"",))[0])

    def contents(self, stream: str) -> Iterator[Kept]:
        with self._lock:
            kept = [(place, *of) for place, of in self._kept.items() if place.startswith(f"{stream}/")]
        return (Kept(place, len(payload), written_at) for place, payload, written_at in kept)

    def _keep(self, location: str, payload: bytes) -> None:
        more_bytes = 0 if location in self._kept else len(payload)
        if self._size_bytes + more_bytes > self._max_bytes:
            raise StorageError(f"The tier {self._name!r} is full.", hint="Give it more max_bytes.")
        self._kept[location] = (payload, time.time())
        self._size_bytes += more_bytes


def create(name: str, options: Mapping[str, Any]) -> MemoryTier:
    """Options: ``max_bytes``."""
    what = f"The memory tier {name!r}"
    check_options(what, options, ("max_bytes",))
    return MemoryTier(name, count_option(what, options, "max_bytes", MAX_BYTES))
