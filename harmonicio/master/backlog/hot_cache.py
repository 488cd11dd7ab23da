"""Payloads of waiting messages that are still in memory.

Nothing is pushed out by what comes later: who arrives first is usually given out first, so a payload that is in stays
until its message is gone, and one that finds no room is read from disk when its time comes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable


class HotCache:
    """Payloads by sequence, bounded in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._payloads: dict[int, tuple[str, memoryview]] = {}
        self._used_bytes = 0

    def __repr__(self) -> str:
        return f"<HotCache {len(self._payloads)} payloads, {self._used_bytes} of {self._max_bytes} bytes>"

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    def offer(self, sequence: int, stream: str, payload: memoryview) -> bool:
        """Keep a payload if there is room; return whether it is kept."""
        with self._lock:
            if self._used_bytes + len(payload) > self._max_bytes or sequence in self._payloads:
                return False
            self._payloads[sequence] = (stream, payload.toreadonly())
            self._used_bytes += len(payload)
            return True

    def get(self, sequence: int) -> memoryview | None:
        """Return a payload if it is here."""
        found = self._payloads.get(sequence)
        return None if found is None else found[1]

    def drop(self, sequences: Iterable[int]) -> None:
        """Let go of payloads; who is reading one keeps it until then."""
        with self._lock:
            for sequence in sequences:
                self._drop(sequence)

    def drop_stream(self, stream: str, before_sequence: int) -> None:
        """Let go of a stream's payloads that arrived before this sequence."""
        with self._lock:
            for sequence in [key for key, item in self._payloads.items() if item[0] == stream]:
                if sequence < before_sequence:
                    self._drop(sequence)

    def _drop(self, sequence: int) -> None:
        found = self._payloads.pop(sequence, None)
        self._used_bytes -= 0 if found is None else len(found[1])

    def clear(self) -> None:
        with self._lock:
            self._payloads.clear()
            self._used_bytes = 0
