"""A pool of threads that grows only while those it has do not get on.

The work of a connection that says hello is done in microseconds, that of one whose payload comes slowly lasts as long
as the payload. A pool cannot know which it was given: with a thread for each thing that waits, a crowd of a thousand
newcomers leaves hundreds of threads, and their memory, behind. Here a few start at once, and whoever submits looks
after the others:

    everything that waits is taken soon   →  no thread more
    nothing was taken since the last look →  1, then 2, 4, 8 … threads more
    something has waited for long         →  one more at each look
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from harmonicio.transport.thread_pool import ThreadPool

#: Threads that start as soon as there is work for them.
EAGER_THREADS = 32
LOOK_EVERY_S = 0.05
#: What has waited so long wants a thread more, although others are taken.
LONG_WAIT_S = 0.25


class PatientPool(ThreadPool):
    """A :class:`ThreadPool` for one thread that submits, and calls :meth:`look` while anything waits."""

    def __init__(self, max_threads: int, name: str) -> None:
        super().__init__(min(EAGER_THREADS, max_threads), name)
        self._limit = max_threads
        self._waiting: deque[float] = deque()  # When each was submitted, which is the order in which they are taken.
        self._submitted = 0
        self._taken_at_look = 0
        self._started = 0  # Threads of the last look.
        self._looked_at = -math.inf

    @property
    def waiting(self) -> int:
        """How much that was submitted no thread has taken yet."""
        return len(self._waiting)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._submitted += 1
        self._waiting.append(time.monotonic())
        return super().submit(self._take, function, *args, **kwargs)

    def _take(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> object:
        self._waiting.popleft()
        return function(*args, **kwargs)

    def seconds_to_look(self, now: float) -> float:
        """Return when to look again; infinite while nothing waits."""
        return max(0.0, self._looked_at + LOOK_EVERY_S - now) if self._waiting else math.inf

    def look(self, now: float) -> None:
        """Start threads, if what waits does not get on without; does nothing before its time."""
        if now < self._looked_at + LOOK_EVERY_S:
            return
        taken = self._submitted - len(self._waiting)
        # New threads take something at once, which tells nothing of the others.
        has_moved = taken - self._taken_at_look > self._started
        self._looked_at, self._taken_at_look = now, taken
        waited_s = now - next(iter(self._waiting), now)
        if waited_s < LOOK_EVERY_S:
            self._start(0)
        elif has_moved:
            self._start(1 if waited_s > LONG_WAIT_S else 0)
        else:
            self._start(max(1, 2 * self._started))

    def _start(self, count: int) -> None:
        before = len(self._threads)
        while count and self._idle_semaphore.acquire(timeout=0):
            pass  # The standard pool believes a thread to be idle; it would have taken what has waited so long.
        for _ in range(min(count, len(self._waiting))):
            self._max_workers = min(self._limit, len(self._threads) + 1)
            self._adjust_thread_count()
        self._started = len(self._threads) - before
