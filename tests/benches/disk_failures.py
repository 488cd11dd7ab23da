"""Calls of the backlog's store that fail: with which errors each kind of call can, and a watch that makes one fail."""

from __future__ import annotations

import errno
import threading

from benches.crash_points import die
from benches.disk_calls import SHORT, Call, Watch

#: What can go wrong with each operation, worst first.
ERRORS: dict[str, tuple[int, ...]] = {
    "open": (errno.ENOSPC, errno.EMFILE),
    "mkdir": (errno.ENOSPC,),
    "write": (errno.ENOSPC, errno.EIO, SHORT),
    "allocate": (errno.ENOSPC,),
    "sync": (errno.EIO, errno.ENOSPC, errno.EDQUOT),  # Some file systems find room only when they flush.
    "truncate": (errno.EIO,),
    "rename": (errno.EIO, errno.ENOSPC),
    "unlink": (errno.EIO,),
    "look": (errno.EMFILE, errno.EIO),
    "read": (errno.EIO,),
}


class FailingCall(Watch):
    """Makes a number of calls of one name fail, one after the other.

    Attributes:
        failed: The paths on which calls failed.
        repeated: Paths that were flushed again after a flush had failed, which brings back nothing that was lost.
    """

    def __init__(self, point: str, error: int, times: int = 1) -> None:
        name, _, number = point.partition(":")
        self._name, self._first, self._error, self._times = name, int(number), error, times
        self._seen = 0
        self._lock = threading.Lock()
        self.failed: list[str] = []
        self.repeated: list[str] = []

    def before(self, call: Call) -> int:
        with self._lock:
            if call.name == self._name == "payload.sync" and str(call.path) in self.failed:
                self.repeated.append(str(call.path))
            if call.name != self._name:
                return 0
            self._seen += 1
            if not self._first <= self._seen < self._first + self._times:
                return 0
            self.failed.append(str(call.path))
            return self._error

    def told(self) -> list[str]:
        return self.repeated


class FailingThenDying(FailingCall):
    """Makes one call fail, and ends the process at one of the next."""

    def __init__(self, point: str, error: int, calls_later: int) -> None:
        super().__init__(point, error)
        self._left = calls_later

    def before(self, call: Call) -> int:
        has_failed = bool(self.failed)
        if has_failed and not call.is_reading:
            with self._lock:
                self._left -= 1
                if not self._left:
                    die()
        return super().before(call)
