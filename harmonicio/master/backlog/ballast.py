"""Disk space held back, so that a full disk can be emptied.

To remove a message, the index must write. So on a full disk nothing could leave the backlog, if it were not for a file
that can be thrown overboard:

      held ──a write fails──► given up: what is finished is still written, nothing new is taken
        ▲                        │
        └── there is room again ─┘ after a rest at the earliest: until then the space is for those who make room
"""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path


class Ballast:
    """A file that takes space and holds nothing.

    Args:
        size_bytes: 0 holds nothing back.
        rest_s: Seconds between a failure and the next try to hold it.
    """

    def __init__(self, path: Path, size_bytes: int, rest_s: float) -> None:
        self._rest_s = rest_s
        self._path = path
        self._size_bytes = size_bytes
        self._lock = threading.Lock()
        self._is_held = False
        self._hold_at = 0.0

    def __repr__(self) -> str:
        return f"<Ballast of {self._size_bytes} bytes, {'held' if self._is_held else 'given up'}>"

    def hold(self) -> None:
        """Hold the space, if it is not held yet.

        Raises:
            BlockingIOError: it was given up a moment ago.
            OSError: there is not that much; nothing is held.
        """
        if self._is_held:
            return
        with self._lock:
            if time.monotonic() < self._hold_at:
                raise BlockingIOError(errno.EAGAIN, "the disk was full or failed a moment ago")
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

    def rest(self) -> None:
        """Something has failed: give the space up for a while. Raises OSError.

        What fails because it rests already does not prolong that, else sources that ask often keep it from ever ending.
        """
        now = time.monotonic()
        if now >= self._hold_at:
            self._hold_at = now + self._rest_s
        self.give_up()

    def give_up(self) -> None:
        """Give the space back to the disk. Raises OSError."""
        with self._lock:
            self._is_held = False
            self._path.unlink(missing_ok=True)
