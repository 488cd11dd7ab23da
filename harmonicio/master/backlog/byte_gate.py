"""Holds up who brings more bytes than may wait at the same time."""

from __future__ import annotations

import threading

from harmonicio.core.errors import StorageError


class ByteGate:
    """Lets bytes in up to a limit; something larger than the limit goes in alone."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._condition = threading.Condition()
        self._inside_bytes = 0
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<ByteGate {self._inside_bytes} of {self._max_bytes} bytes{', closed' if self._is_closed else ''}>"

    def enter(self, size_bytes: int) -> None:
        """Wait until there is room, and take it.

        Raises:
            StorageError: the gate has been closed.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._is_closed or self._has_room(size_bytes))
            if self._is_closed:
                raise StorageError("The backlog's store is closed.")
            self._inside_bytes += size_bytes

    def leave(self, size_bytes: int) -> None:
        """Give room back."""
        with self._condition:
            self._inside_bytes -= size_bytes
            self._condition.notify_all()

    def close(self) -> None:
        """Let nobody in any more; those who wait get the error."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()

    def _has_room(self, size_bytes: int) -> bool:
        return self._inside_bytes == 0 or self._inside_bytes + size_bytes <= self._max_bytes
