"""Engines as threads of this process: a runtime without processes, for tests.

What is started lives in a :class:`MemoryHost`, which stands for the machine: a runtime that is closed lets go, and the
next one on the same host finds the engines. A thread cannot be killed; a killed engine counts as gone at once, and its
thread is asked to end.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from harmonicio.control.log_messages import LOG_PART_BYTES, LogPart
from harmonicio.worker.instructions import EngineExited, EngineFound, EngineStarted, RuntimeEvent
from harmonicio.worker.runtimes.base import EngineSpec, Runtime, RuntimeContext, Tell, no_log_of

MAX_KEPT_LOGS = 20
MAX_LOG_LINES = 1_000
KILLED = -9


@dataclass(slots=True, eq=False)
class MemoryEngine:
    """One engine: what it was started with, what it is asked, and how it ended."""

    spec: EngineSpec
    is_asked_to_stop: threading.Event = field(default_factory=threading.Event)
    is_killed: threading.Event = field(default_factory=threading.Event)
    lines: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=MAX_LOG_LINES))
    exit_code: int | None = None

    def say(self, line: str) -> None:
        """Write a line to the engine's log, in which lines are numbered."""
        self.lines.append((self.last_number + 1, line))

    @property
    def last_line(self) -> str:
        return self.lines[-1][1] if self.lines else ""

    @property
    def last_number(self) -> int:
        return self.lines[-1][0] if self.lines else 0

    def found(self) -> EngineFound:
        """Return it as the next runtime finds it."""
        text = "" if self.exit_code is None else self.last_line
        return EngineFound(self.spec.engine, self.spec.declaration, 0, self.exit_code is None, text)


Body = Callable[[MemoryEngine], int]


def wait_to_be_stopped(engine: MemoryEngine) -> int:
    """Be an engine that does nothing."""
    engine.is_asked_to_stop.wait()
    return 0


class MemoryHost:
    """The machine: the engines that live on it, and who is told of their ends.

    Args:
        body: What an engine does, in a thread of its own; returns its exit code.
    """

    def __init__(self, body: Body = wait_to_be_stopped) -> None:
        self._body = body
        self._lock = threading.Lock()
        self._listener: Tell | None = None
        self._threads: list[threading.Thread] = []
        self.engines: dict[str, MemoryEngine] = {}

    def __repr__(self) -> str:
        return f"<MemoryHost {len(self.engines)} engines>"

    def __enter__(self) -> MemoryHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def listen(self, listener: Tell | None) -> None:
        """Tell this one, and nobody else, of ends from now on."""
        with self._lock:
            self._listener = listener

    def start(self, spec: EngineSpec) -> None:
        engine = MemoryEngine(spec)
        thread = threading.Thread(target=self._run, args=(engine,), name=f"engine-{spec.engine}", daemon=True)
        with self._lock:
            self.engines[spec.engine] = engine
            self._threads.append(thread)
        thread.start()

    def end(self, engine: MemoryEngine, exit_code: int) -> None:
        """An engine has ended; the first one to say so is believed."""
        with self._lock:
            if engine.exit_code is not None:
                return
            engine.exit_code = exit_code
            listener = self._listener
        if listener is not None:
            listener(EngineExited(engine.spec.engine, exit_code, engine.last_line))

    def close(self) -> None:
        """End every engine and its thread."""
        self.listen(None)
        for engine in list(self.engines.values()):
            engine.is_killed.set()
            engine.is_asked_to_stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, engine: MemoryEngine) -> None:
        self.end(engine, self._body(engine))


class MemoryRuntime(Runtime):
    """Starts engines as threads.

    Args:
        context: Where it works.
        host: Where the engines live; by default a host that nobody else knows and that ends with this runtime.
    """

    def __init__(self, context: RuntimeContext, *, host: MemoryHost | None = None) -> None:
        self._host = host or MemoryHost()
        self._owns_host = host is None
        self._is_closed = False
        self._ended: dict[str, MemoryEngine] = {}
        self._told = context.tell
        self._host.listen(self._tell)

    def __repr__(self) -> str:
        return f"<MemoryRuntime {'closed' if self._is_closed else self._host!r}>"

    def _tell(self, event: RuntimeEvent) -> None:
        # From a thread of its own, like every runtime: whoever ordered the end may hold locks.
        threading.Thread(target=self._told, args=(event,), name="engine-exit", daemon=True).start()

    def start(self, spec: EngineSpec) -> None:
        self._told(EngineStarted(spec.engine, 0))
        self._host.start(spec)

    def stop(self, engine: str) -> None:
        if engine in self._host.engines:
            self._host.engines[engine].is_asked_to_stop.set()

    def kill(self, engine: str) -> None:
        known = self._host.engines.get(engine)
        if known is not None:
            self._host.end(known, KILLED)
            known.is_killed.set()
            known.is_asked_to_stop.set()

    def list(self) -> tuple[EngineFound, ...]:
        return tuple(each.found() for _, each in sorted(self._host.engines.items()))

    def forget(self, engine: str) -> None:
        known = self._host.engines.get(engine)
        if known is None or known.exit_code is None:
            return
        del self._host.engines[engine]
        self._ended[engine] = known
        while len(self._ended) > MAX_KEPT_LOGS:
            del self._ended[next(iter(self._ended))]

    def log_part(self, engine: str, after: str = "", max_bytes: int = LOG_PART_BYTES) -> LogPart:
        known = self._host.engines.get(engine) or self._ended.get(engine)
        if known is None:
            raise no_log_of(engine)
        has_ended = known.exit_code is not None
        lines = tuple(known.lines)
        last = lines[-1][0] if lines else 0
        if not after.isdecimal():
            return LogPart("".join(f"{line}\n" for _, line in lines)[-max_bytes:], str(last), has_ended)
        text, mark = "", int(after) if int(after) <= last else 0
        for number, line in lines:
            if number <= mark:
                continue
            if text and len(text) + len(line) >= max_bytes:
                break
            text, mark = f"{text}{line}\n", number
        return LogPart(text, str(mark), has_ended and mark >= last)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._host.listen(None)
        if self._owns_host:
            self._host.close()
