"""A payload on its way into the backlog.

new_payload ──► (bytes arrive) ──► put ──► stored, or not
      └──────────── discard
"""

from __future__ import annotations

from collections.abc import Callable

from harmonicio.master.backlog.base import PendingPayload


class Arrival(PendingPayload):
    """Room in the store, and in the backlog's budget, for one payload.

    Attributes:
        memory_bytes: What it takes of the memory for arriving payloads.
        is_void: Its stream has been deleted meanwhile.
    """

    def __init__(self, stream: str, sequence: int, size_bytes: int, on_discarded: Callable[[Arrival], None]) -> None:
        self.stream = stream
        self.sequence = sequence
        self.size_bytes = size_bytes
        self.memory_bytes = 0
        self.is_void = False
        self.is_on_disk = False
        self.buffer = memoryview(b"")
        self._on_discarded: Callable[[Arrival], None] | None = on_discarded
        self._payload: PendingPayload | None = None

    def __repr__(self) -> str:
        return f"<Arrival {self.sequence} for {self.stream}: {self.size_bytes} bytes{', void' if self.is_void else ''}>"

    def provide(self, payload: PendingPayload) -> None:
        """Say where the bytes go."""
        self._payload = payload
        self.buffer = payload.buffer
        self.is_on_disk = payload.is_on_disk

    def take(self) -> PendingPayload:
        """Hand the room over to the store: discarding has no effect any more."""
        payload, self._payload, self._on_discarded = self._payload, None, None
        assert payload is not None, "a payload is put once"
        self.buffer = memoryview(b"")
        return payload

    def discard(self) -> None:
        payload, self._payload = self._payload, None
        on_discarded, self._on_discarded = self._on_discarded, None
        self.buffer = memoryview(b"")
        if payload is not None:
            payload.discard()
        if on_discarded is not None:
            on_discarded(self)
