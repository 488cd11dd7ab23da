"""What stands in for ``threading``, ``queue`` and pools of threads while the product runs in a simulation.

Only what the product uses. A thread switches only where it waits, and now and then before it takes a lock, so that
orders are tried which real threads have only once in a while.
"""

from __future__ import annotations

import math
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from simulation.loop import MOMENT_S, Killed, Task, check_alive, current, sleep


class Lock:
    """``threading.Lock``."""

    __slots__ = ("_held", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[tuple[Task, int]] | None = None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        task = current()
        process = task.process
        if process.is_dead:
            raise Killed
        loop = process.loop
        if loop.preemption and blocking and task is not loop.hub and loop.random.random() < loop.preemption:
            number = task.ready_to_park()
            task.wake(number)
            task.park(number)
        until = None if timeout < 0 else loop.now + timeout
        while self._held:
            if not blocking or (until is not None and loop.now >= until):
                return False
            if self._waiting is None:
                self._waiting = deque()
            number = task.ready_to_park()
            self._waiting.append((task, number))
            task.park(number, None if until is None else until - loop.now)
        self._held = True
        return True

    def release(self) -> None:
        self._held = False
        waiting = self._waiting
        while waiting:
            task, number = waiting.popleft()
            if not task.is_over:
                task.wake(number)
                return

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class RLock:
    """``threading.RLock``."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._owner: Task | None = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        task = current()
        if self._owner is task:
            self._count += 1
            return True
        if not self._lock.acquire(blocking, timeout):
            return False
        self._owner, self._count = task, 1
        return True

    def release(self) -> None:
        self._count -= 1
        if not self._count:
            self._owner = None
            self._lock.release()

    def release_all(self) -> int:
        count, self._count, self._owner = self._count, 0, None
        self._lock.release()
        return count

    def acquire_again(self, count: int) -> None:
        self._lock.acquire()
        self._owner, self._count = current(), count

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Condition:
    """``threading.Condition``."""

    def __init__(self, lock: Any = None) -> None:
        self._lock = RLock() if lock is None else lock
        self.acquire, self.release = self._lock.acquire, self._lock.release
        self._waiting: deque[tuple[Task, int]] = deque()

    def __enter__(self) -> bool:
        return bool(self._lock.__enter__())

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__()

    def wait(self, timeout: float | None = None) -> bool:
        task = current()
        number = task.ready_to_park()
        self._waiting.append((task, number))
        lock = self._lock
        count = lock.release_all() if isinstance(lock, RLock) else lock.release()
        is_woken = False
        try:
            is_woken = task.park(number, timeout)
        finally:
            if not is_woken and self._waiting:
                self._waiting = deque(each for each in self._waiting if each[0] is not task)
            if isinstance(lock, RLock):
                lock.acquire_again(count)
            else:
                lock.acquire()
        return is_woken

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        loop = current().process.loop
        until = None if timeout is None else loop.now + timeout
        result = predicate()
        while not result:
            left_s = None if until is None else until - loop.now
            if left_s is not None and left_s <= 0:
                break
            self.wait(left_s)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        for _ in range(min(n, len(self._waiting))):
            task, number = self._waiting.popleft()
            task.wake(number)

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class Event:
    """``threading.Event``."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[tuple[Task, int]] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        waiting, self._waiting = self._waiting, []
        for task, number in waiting:
            task.wake(number)

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        task = current()
        if self._is_set:
            sleep(MOMENT_S)  # Who looks again and again must come to see that time passes.
        else:
            number = task.ready_to_park()
            self._waiting.append((task, number))
            task.park(number, timeout)
            self._waiting = [each for each in self._waiting if each[0] is not task]
        return self._is_set


class Thread:
    """``threading.Thread``."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., Any] | None = None,
        name: str = "",
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self._target, self._args, self._kwargs = target, args, kwargs or {}
        self.name = name
        self.daemon = daemon
        self._task: Task | None = None

    @property
    def ident(self) -> int | None:
        return None if self._task is None else 1

    def start(self) -> None:
        process = check_alive()
        self._task = process.spawn(self.name or "thread", self.run)

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.is_over

    def join(self, timeout: float | None = None) -> None:
        if self._task is None or self._task.is_over:
            return
        task = current()
        number = task.ready_to_park()
        self._task.join_by(task, number)
        task.park(number, timeout)


class Timer(Thread):
    """``threading.Timer``."""

    def __init__(self, interval: float, function: Callable[..., Any], args: Any = (), kwargs: Any = None) -> None:
        super().__init__(target=function, args=tuple(args), kwargs=kwargs, name="timer")
        self._interval_s = interval
        self._finished = Event()

    def run(self) -> None:
        if not self._finished.wait(self._interval_s):
            super().run()

    def cancel(self) -> None:
        self._finished.set()


class ThreadingModule:
    """``threading``."""

    Lock, RLock, Condition, Event, Thread, Timer = Lock, RLock, Condition, Event, Thread, Timer

    @staticmethod
    def current_thread() -> object:
        return current()


class Executor:
    """``ThreadPool``: an error of its work is a bug that nobody would see."""

    def __init__(self, max_threads: int, name: str, *, is_ready: bool = False) -> None:
        self._max_threads = max_threads
        self._name = name
        self._work: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._idle: deque[tuple[Task, int]] = deque()
        self._running = 0
        self._is_shut = False
        self._over = Event()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        process = check_alive()
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self._work.append((function, arguments))
        if self._idle:
            task, number = self._idle.popleft()
            task.wake(number)
        elif self._running < self._max_threads:
            self._running += 1
            process.spawn(self._name, self._serve)

    def _serve(self) -> None:
        task = current()
        loop = task.process.loop
        while self._work or not self._is_shut:
            if not self._work:
                number = task.ready_to_park()
                self._idle.append((task, number))
                task.park(number)
                continue
            function, arguments = self._work.popleft()
            try:
                function(*arguments)
            except Exception as error:  # noqa: BLE001  nobody else would see it
                loop.bugs.append(
                    f"work of {task.process.name}/{self._name} failed: {error!r}\n{traceback.format_exc()}"
                )
            function, arguments = _nothing, ()
        self._running -= 1
        if not self._running:
            self._over.set()

    def shutdown(self, wait: bool = True) -> None:
        check_alive()
        self._is_shut = True
        while self._idle:
            task, number = self._idle.popleft()
            task.wake(number)
        if wait and self._running:
            self._over.wait()


class PatientExecutor(Executor):
    """``PatientPool``: starts each thread as soon as it is needed, which is one of the ways the real one can take."""

    @property
    def is_busy(self) -> bool:
        return bool(self._work)

    @property
    def is_alone(self) -> bool:
        return False

    def seconds_to_look(self, now: float) -> float:
        return math.inf

    def look(self, now: float) -> None:
        """Nothing waits for a thread that may be started."""


def _nothing() -> None:
    pass


class SimpleQueue:
    """``queue.SimpleQueue``."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        self._items.append(item)

    def get(self) -> Any:
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items


class QueueModule:
    """``queue``."""

    SimpleQueue = SimpleQueue
