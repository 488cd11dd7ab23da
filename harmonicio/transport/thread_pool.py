"""A bounded pool of threads that does all that it has taken, also on a host that has no thread to spare.

The standard pool queues work first and starts a thread for it second. When none can be started ``submit`` raises, but
the work is done all the same once another submission has started one: whoever takes the error for an answer does it
twice, and with what it has given back meanwhile. Here one thread is there from the beginning, so what is queued is
done, only later than with more; and ``submit`` raises only when it has queued nothing.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

from harmonicio.core.errors import Unavailable

_log = logging.getLogger(__name__)


def no_thread(error: Exception) -> Unavailable:
    """Return what a pool raises that has not even one thread."""
    return Unavailable(
        f"No thread can be started: {error}.",
        hint="Raise the limits of processes and of memory, or end what has used them up.",
    )


class ThreadPool(ThreadPoolExecutor):
    """The standard pool, whose ``submit`` raises RuntimeError only when the pool was shut down.

    Args:
        max_threads: No more than so many start.
        name: For the names of its threads, and log lines.
        is_ready: All start at once. Where a user's code can use the memory up, none may start later: one that dies of
            it before it runs is waited for by whoever starts it, with the pool's lock, for ever.

    Raises:
        Unavailable: not even its first thread can be started.
    """

    def __init__(self, max_threads: int, name: str, *, is_ready: bool = False) -> None:
        super().__init__(max_threads, name)
        self.name = name
        self._is_short = False
        try:
            super()._adjust_thread_count()
        except (RuntimeError, MemoryError) as error:
            raise no_thread(error) from error
        for _ in range(1, max_threads if is_ready else 1):
            self._adjust_thread_count()

    def __repr__(self) -> str:
        return f"<ThreadPool {self.name}: {len(self._threads)} threads>"

    def _adjust_thread_count(self) -> None:
        """Start a thread for what was just queued, if it needs one and there may be one more."""
        count = len(self._threads)
        try:
            super()._adjust_thread_count()
        except (RuntimeError, MemoryError) as error:
            level, self._is_short = logging.DEBUG if self._is_short else logging.WARNING, True
            _log.log(level, "Another thread for %s, which has %d, cannot be started: %s", self.name, count, error)
        else:
            self._is_short = self._is_short and len(self._threads) == count
