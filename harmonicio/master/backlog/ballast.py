"""Disk space held back, so that a full disk can be emptied.

To remove a message, the index must write. So on a full disk nothing could leave the backlog, if it were not for a file
that can be thrown overboard:

      held ──a write fails──► given up: what is finished is still written, nothing new is taken
        ▲                        │
        └── there is room again ─┘
"""

from __future__ import annotations

import os
import threading
from pathlib import Path


class Ballast:
    """A file that takes space and holds nothing.

    Args:
        size_bytes: 0 holds nothing back.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self._lock = threading.Lock()
        self._is_held = False

    def __repr__(self) -> str:
        return f"<Ballast of {self._size_bytes} bytes, {'held' if self._is_held else 'given up'}>"

    def hold(self) -> None:
        """Hold the space, if it is not held yet.

        Raises:
            OSError: there is not that much; nothing is held.
        """
        if self._is_held:
            return
        with self._lock:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if self._size_bytes:
                    os.posix_fallocate(fd, 0, self._size_bytes)
                self._is_held = True
            except OSError:
                self._path.unlink(missing_ok=True)
                raise
            finally:
                os.close(fd)

    def give_up(self) -> None:
        """Give the space back to the disk. Raises OSError."""
        with self._lock:
            self._is_held = False
            self._path.unlink(missing_ok=True)
