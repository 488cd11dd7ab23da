"""The one loop of a simulation: a heap of (time, number, call), and tasks that stand for threads.

A task is a greenlet: it runs until it waits for something, then the loop goes on with whatever is next. So the
product's own threads run here unchanged, one at a time, in an order that only the seed decides.

    Task ──park──► (in nobody's hands) ──wake, or the time is over──► heap ──► Task

A task belongs to a process, a process to a host. A process can be stopped (SIGSTOP, or its host is suspended): what
would resume its tasks is kept until it goes on, and then happens late. It can die: its tasks never run again, but for
unwinding, in which everything that they could do to others is refused.
"""

from __future__ import annotations

import heapq
import random
import traceback
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

#: Nothing that waits takes less.
MOMENT_S = 1e-6


class Killed(BaseException):
    """The process of this task is dead; nobody's ``except Exception`` catches it."""


class Loop:
    """Time and what happens in it. The simulation's only source of chance is ``random``."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.calls = 0
        #: How often a task that takes a free lock lets others go first; which of them, the heap says.
        self.preemption = 0.0
        self._heap: list[list[Any]] = []
        self._number = 0
        #: Errors of ours that ended a thread: each is a bug of the product, or of the simulation.
        self.bugs: list[str] = []
        self.outside = Process("outside", Host(self, "outside"))

    def at(self, time_s: float, call: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call this at that time; what is returned can be given to :meth:`cancel`."""
        self._number += 1
        item = [time_s if time_s > self.now else self.now, self._number, call, arguments]
        heapq.heappush(self._heap, item)
        return item

    def after(self, delay_s: float, call: Callable[..., Any], *arguments: Any) -> list[Any]:
        return self.at(self.now + delay_s, call, *arguments)

    @staticmethod
    def cancel(item: list[Any]) -> None:
        item[2] = None

    def run(self, is_over: Callable[[], bool], until_s: float) -> bool:
        """Go on until it is over, which is asked now and then; return whether that was before ``until_s``."""
        hub = Task(self.outside, "hub", lambda: self._run(is_over, until_s))
        self.hub = hub
        return bool(hub.switch())

    def _run(self, is_over: Callable[[], bool], until_s: float) -> bool:
        heap, pop = self._heap, heapq.heappop
        asked = 0
        while heap:
            if heap[0][0] > until_s:
                self.now = until_s
                return is_over()
            self.now, _, call, arguments = pop(heap)
            if call is not None:
                self.calls += 1
                call(*arguments)
                asked += 1
                if asked >= 50:
                    asked = 0
                    if is_over():
                        return True
        return is_over()


class Host:
    """A machine: its clocks, and whether it runs.

    Attributes:
        monotonic_offset_s: Where its monotonic clock started.
        wall_offset_s: How far its wall clock is off.
    """

    def __init__(self, loop: Loop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.monotonic_offset_s = 0.0
        self.wall_offset_s = 0.0
        self.is_up = True
        self.suspensions = 0
        self.processes: list[Process] = []
        #: What its processes share: sockets by path, handler boards.
        self.shared: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<Host {self.name}>"

    def suspend(self) -> None:
        """Nothing runs here from now on; counted."""
        self.suspensions += 1
        for process in list(self.processes):
            process.stop()

    def resume(self) -> None:
        self.suspensions -= 1
        for process in list(self.processes):
            process.cont()

    def monotonic(self) -> float:
        return self.loop.now + self.monotonic_offset_s

    def wall(self) -> float:
        return 1_700_000_000.0 + self.loop.now + self.wall_offset_s


class Process:
    """Tasks that live and die together."""

    def __init__(self, name: str, host: Host) -> None:
        self.name = name
        self.host = host
        self.loop = host.loop
        self.tasks: dict[Task, None] = {}
        self.is_dead = False
        self.stops = host.suspensions
        self._late: list[tuple[Task, int, bool]] = []
        #: Called once, in this order, when it dies: closes what its kernel would close, tells who watches it.
        self.on_death: list[Callable[[], None]] = []
        self.exit_code: int | None = None
        host.processes.append(self)

    def __repr__(self) -> str:
        return f"<Process {self.name}{' dead' if self.is_dead else ''}>"

    def spawn(self, name: str, run: Callable[..., Any], *arguments: Any) -> Task:
        """Start a thread of this process."""
        task = Task(self, name, run, *arguments)
        self.tasks[task] = None
        self.loop.at(self.loop.now, task.resume, 0, True)
        return task

    def stop(self) -> None:
        """SIGSTOP, or its host is suspended; counted."""
        self.stops += 1

    def cont(self) -> None:
        """SIGCONT: what should have happened meanwhile happens now."""
        self.stops -= 1
        if not self.stops and not self.is_dead:
            late, self._late = self._late, []
            for task, number, is_woken in late:
                self.loop.at(self.loop.now, task.resume, number, is_woken)

    def keep(self, task: Task, number: int, is_woken: bool) -> None:
        self._late.append((task, number, is_woken))

    def die(self, exit_code: int = -9) -> None:
        """SIGKILL, a crash or the end of ``main``; the caller may be a task of this very process."""
        if self.is_dead:
            return
        self.is_dead = True
        self.exit_code = exit_code
        if self in self.host.processes:
            self.host.processes.remove(self)
        for each in self.on_death:
            each()
        own = getcurrent()
        for task in list(self.tasks):
            if task is not own:
                self.loop.at(self.loop.now, task.unwind)
        if isinstance(own, Task) and own.process is self:
            raise Killed

    def finished(self, task: Task) -> None:
        self.tasks.pop(task, None)


class Task(greenlet):
    """One thread."""

    def __init__(self, process: Process, name: str, run: Callable[..., Any], *arguments: Any) -> None:
        super().__init__(self._main)
        self.process = process
        self.name = name
        self.is_over = False
        self._function, self._arguments = run, arguments
        self._waits_for = 0
        self._number = 0
        self._joiners: list[tuple[Task, int]] = []

    def __repr__(self) -> str:
        return f"<Task {self.process.name}/{self.name}>"

    def _main(self, *_: object) -> Any:
        try:
            return self._function(*self._arguments)
        except Killed:
            return None
        except Exception as error:  # noqa: BLE001  it would have ended the thread
            self.process.loop.bugs.append(
                f"thread {self.process.name}/{self.name} ended: {error!r}\n{traceback.format_exc()}"
            )
        finally:
            self.is_over = True
            self.process.finished(self)
            for task, number in self._joiners:
                task.wake(number)

    def resume(self, number: int, is_woken: bool) -> None:
        """Go on; by the loop. What came too late, because the task goes on already, does nothing."""
        if number != self._waits_for or self.is_over:
            return
        if self.process.is_dead:
            self.unwind()
        elif self.process.stops:
            self.process.keep(self, number, is_woken)
        else:
            self._waits_for = -1
            self.parent = getcurrent()
            self.switch(is_woken)

    def unwind(self) -> None:
        """The process is dead."""
        if not self.is_over and self:
            self.parent = getcurrent()
            self.throw(Killed)
        self.is_over = True
        self.process.finished(self)

    def ready_to_park(self) -> int:
        """Return the number that wakes the next :meth:`park`."""
        self._number += 1
        return self._number

    def park(self, number: int, timeout_s: float | None = None) -> bool:
        """Wait; by the task itself. Return whether it was woken before the time was over."""
        process = self.process
        if process.is_dead:
            raise Killed
        loop = process.loop
        self._waits_for = number
        item = None if timeout_s is None else loop.at(loop.now + max(timeout_s, MOMENT_S), self.resume, number, False)
        is_woken = bool(loop.hub.switch())
        if item is not None:
            loop.cancel(item)
        if process.is_dead:
            raise Killed
        return is_woken

    def wake(self, number: int) -> None:
        """Have it go on soon, if it still waits with this number."""
        loop = self.process.loop
        loop.at(loop.now, self.resume, number, True)

    def join_by(self, task: Task, number: int) -> None:
        self._joiners.append((task, number))


def current() -> Task:
    """The task that runs: all that can wait is called by one."""
    task = getcurrent()
    if not isinstance(task, Task):
        raise RuntimeError("Only a task of the simulation can wait.")
    return task


def sleep(seconds: float) -> None:
    """Let the current task wait."""
    task = current()
    task.park(task.ready_to_park(), max(0.0, seconds))


def check_alive() -> Process:
    """Return the process of the current task; a dead one can do nothing any more."""
    process = current().process
    if process.is_dead:
        raise Killed
    return process
