"""A pool of threads that grows only while those it has do not get on.

The work of a connection that says hello is done in microseconds, that of one whose payload comes slowly lasts as long
as the payload. A pool cannot know which it was given: with a thread for each thing that waits, a crowd of a thousand
newcomers leaves hundreds of threads, and their memory, behind. Here a few start at once, and whoever submits looks
after the others (:func:`threads_wanted`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

from harmonicio.transport.thread_pool import no_thread

_log = logging.getLogger(__name__)

#: Threads that start as soon as there is work for them.
EAGER_THREADS = 32
LOOK_EVERY_S = 0.05
#: What waits shall be taken so soon.
SOON_S = 2.0


def threads_wanted(waiting: int, waited_s: float, taken: int, in_s: float, started: int) -> int:
    """Return how many threads more should take what waits.

    When nothing moves, threads double: 1, 2, 4, 8 … Else so many start as are missing for what waits to be taken
    :data:`SOON_S` after it was submitted, at the pace of now.

    Args:
        waiting: Things that wait, the first of them for ``waited_s``.
        taken: Things that were taken in the last ``in_s``.
        started: Threads of the last look. Each takes one thing at once, which tells nothing of the others.
    """
    if waited_s < LOOK_EVERY_S:
        return 0
    if taken <= started:
        return min(waiting, max(1, 2 * started))
    missing_per_s = waiting / max(LOOK_EVERY_S, SOON_S - waited_s) - (taken - started) / in_s
    return min(waiting, max(0, math.ceil(missing_per_s * LOOK_EVERY_S)))


class PatientPool:
    """Threads for work that one thread submits, which also calls :meth:`look` while any waits.

    What was submitted is done in its order, by one thread if no other can be started.

    Args:
        max_threads: No more than so many start.
        name: For the names of its threads, and log lines.

    Raises:
        Unavailable: not even its first thread can be started.
    """

    def __init__(self, max_threads: int, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_threads = max_threads
        self._name = name
        self._clock = clock
        self._threads: list[threading.Thread] = []
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = threading.Lock()
        #: When what waits was submitted, in the order in which it is taken.
        self._since: deque[float] = deque()
        self._free = 0
        self._submitted = 0
        self._looked_at = -math.inf
        self._taken_at_look = 0
        self._started_at_look = 0
        self._is_closed = False
        self._is_short_of_threads = False
        try:
            self._start_one()
        except (RuntimeError, MemoryError) as error:
            raise no_thread(error) from error

    def __repr__(self) -> str:
        threads = f"{len(self._threads)} of {self._max_threads} threads"
        return f"<PatientPool {self._name}: {threads}, {self._free} free, {len(self._since)} things wait>"

    @property
    def is_busy(self) -> bool:
        """Whether no thread is left for what comes next: one that only waits for more should come back."""
        free = self._free - len(self._since)
        return free < 0 or (free == 0 and len(self._threads) >= min(EAGER_THREADS, self._max_threads))

    @property
    def is_alone(self) -> bool:
        """Whether the thread that asks is the only one at work."""
        return len(self._threads) - self._free == 1 and not self._since

    def submit(self, function: Callable[..., object], *args: Any) -> None:
        """Have this done.

        Raises:
            RuntimeError: the pool was shut down.
        """
        if self._is_closed:
            raise RuntimeError(f"The pool {self._name} was shut down.")
        with self._lock:
            self._submitted += 1
            self._since.append(self._clock())
            is_short = len(self._since) > self._free
        self._work.put(partial(function, *args))
        if is_short and len(self._threads) < EAGER_THREADS:
            self._start(1)

    def seconds_to_look(self, now: float) -> float:
        """Return when to look again; infinite while nothing waits."""
        return max(0.0, self._looked_at + LOOK_EVERY_S - now) if self._since else math.inf

    def look(self, now: float) -> None:
        """Start threads, if what waits does not get on without; does nothing before its time."""
        in_s = now - self._looked_at
        if in_s < LOOK_EVERY_S:
            return
        with self._lock:
            waiting = len(self._since)
            waited_s = now - self._since[0] if waiting else 0.0
            taken = self._submitted - waiting
        wanted = threads_wanted(waiting, waited_s, taken - self._taken_at_look, in_s, self._started_at_look)
        self._looked_at, self._taken_at_look = now, taken
        self._started_at_look = self._start(wanted)

    def shutdown(self) -> None:
        """Wait until all that was submitted is done and every thread has ended; nothing more is taken."""
        self._is_closed = True
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _start(self, count: int) -> int:
        """Start threads, as far as they are allowed and there are any to be had; return how many."""
        before = len(self._threads)
        for _ in range(min(count, self._max_threads - before)):
            try:
                self._start_one()
            except (RuntimeError, MemoryError) as error:
                level = logging.DEBUG if self._is_short_of_threads else logging.WARNING
                self._is_short_of_threads = True
                had = len(self._threads)
                _log.log(level, "Another thread for %s, which has %d, cannot be started: %s", self._name, had, error)
                break
            self._is_short_of_threads = False
        return len(self._threads) - before

    def _start_one(self) -> None:
        thread = threading.Thread(target=self._run, name=f"{self._name}_{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)
        with self._lock:
            self._free += 1

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            with self._lock:
                self._since.popleft()
                self._free -= 1
            try:
                work()
            except Exception:  # noqa: BLE001  a bug in one piece of work must not end the thread; it is logged
                _log.exception("A piece of work of %s failed", self._name)
            del work  # It would keep what it holds while this thread waits.
            with self._lock:
                self._free += 1
