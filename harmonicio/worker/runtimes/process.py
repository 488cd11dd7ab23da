"""Engines as child processes of the controller, which they outlive.

    <folder>/<engine>/engine.json   which process it is, to find it again      (process_mark)
                      engine.log    its standard output and error              (engine_log)
    <folder>/../engine-logs/        the ends of the logs of the last engines that have ended

Rules:

- An engine leads a session and process group of its own: signals to the controller's terminal do not reach it, and a
  kill takes its own children along.
- The configuration is written to its standard input only after the mark: an engine that is not marked reads an empty
  input and ends, so a controller that dies in between leaves nothing unknown behind.
- The environment is the controller's without our own variables, in which tokens could be.
- A process is watched through its pidfd. No signal is ever sent to a pid that may have been reused: our children keep
  theirs until we have waited for them, under the lock; others are asked for through their pidfd first.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harmonicio.control import json_codec, open_file_limit
from harmonicio.control.engine_messages import EngineConfiguration
from harmonicio.control.log_messages import LOG_PART_BYTES, LogPart
from harmonicio.core.errors import InvalidInput, Unavailable
from harmonicio.core.settings import ENVIRONMENT_PREFIX
from harmonicio.worker.instructions import EngineExited, EngineFound, EngineStarted
from harmonicio.worker.runtimes.base import EngineSpec, Runtime, RuntimeContext, no_log_of
from harmonicio.worker.runtimes.engine_log import (
    LOG_NAME,
    OLDER_NAME,
    bound_log,
    last_line,
    log_part,
    open_log,
    whole_log,
)
from harmonicio.worker.runtimes.log_archive import MAX_KEPT_LOG_BYTES, LogArchive
from harmonicio.worker.runtimes.log_pieces import LogPiece, part_of
from harmonicio.worker.runtimes.mark import MARK_NAME
from harmonicio.worker.runtimes.process_mark import ProcessMark, find_mark

_log = logging.getLogger(__name__)

ENGINE_COMMAND = (sys.executable, "-m", "harmonicio.engine")
LOG_CHECK_S = 1.0


@dataclass(frozen=True, slots=True)
class _Process:
    """A process that is watched; its pidfd stays open until its end has been told."""

    engine: str
    pid: int
    pidfd: int
    folder: Path

    @property
    def has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))


class ProcessRuntime(Runtime):
    """Starts engines as processes.

    Args:
        context: Where it works.
        command: What is run, with the stream's handler as last argument.
    """

    starts = ("handler",)

    def __init__(self, context: RuntimeContext, *, command: Sequence[str] = ENGINE_COMMAND) -> None:
        self._folder = context.folder
        self._tell = context.tell
        self._command = tuple(command)
        self._archive = LogArchive(self._folder.parent / "engine-logs")
        self._lock = threading.Lock()
        self._log_lock = threading.Lock()  # Held by who reads logs and by who moves them; never waits for an engine.
        self._processes: dict[str, _Process] = {}
        self._is_closed = False
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._watcher = threading.Thread(target=self._watch, name="worker-processes", daemon=True)
        self._watcher.start()

    def __repr__(self) -> str:
        return f"<ProcessRuntime {self._folder} {'closed' if self._is_closed else f'{len(self._processes)} running'}>"

    @property
    def is_intact(self) -> bool:
        return self._watcher.is_alive()

    # ── starting and finding ─────────────────────────────────────────────────────────────────────────────────────────

    def start(self, spec: EngineSpec) -> None:
        if not spec.declaration.handler:
            raise InvalidInput(
                f"Stream {spec.declaration.name!r} has an image and no handler.",
                hint="Run it on a worker with a container runtime, or give it a handler.",
            )
        try:
            self._start(spec)
        except OSError as error:
            raise Unavailable(f"The process cannot be started: {error.strerror or error}.") from error

    def _start(self, spec: EngineSpec) -> None:
        with contextlib.ExitStack() as descriptors:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            descriptors.callback(os.close, reading)
            descriptors.callback(os.close, writing)
            line = _configuration_line(spec.configuration, writing)
            log = open_log(spec.folder)
            descriptors.callback(os.close, log)
            process = self._spawn(spec, reading, log)
            try:
                ProcessMark.of(spec.engine, process.pid, spec.declaration).write(spec.folder)
                self._epoll.register(process.pidfd, select.EPOLLIN)
                os.write(writing, line)
            except OSError:
                _end(process.pid)
                os.close(process.pidfd)
                raise
        self._tell(EngineStarted(spec.engine, process.pid))
        with self._lock:
            self._processes[spec.engine] = process

    def _spawn(self, spec: EngineSpec, standard_input: int, log: int) -> _Process:
        pid = os.posix_spawn(
            self._command[0],
            [*self._command, spec.declaration.handler],
            _environment(),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, standard_input, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
                *((os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _inheritable_descriptors()),
            ],
            setsid=True,
            setsigmask=(),
            # Python ignores the first two, a shell perhaps the others; what is ignored would stay so in the engine.
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM),
        )
        try:
            open_file_limit.give_usual(pid)
            return _Process(spec.engine, pid, os.pidfd_open(pid), spec.folder)
        except OSError:  # No descriptor is left to watch it with.
            _end(pid)
            raise

    def list(self) -> tuple[EngineFound, ...]:
        marks = [mark for folder in sorted(self._folder.glob("*")) if (mark := find_mark(folder)) is not None]
        with self._lock:
            return tuple(self._find(mark) for mark in marks if mark.engine not in self._processes)

    def _find(self, mark: ProcessMark) -> EngineFound:
        folder = self._folder / mark.engine
        pidfd = _open_pidfd(mark.pid)
        if pidfd is not None and mark.is_alive():
            try:
                self._epoll.register(pidfd, select.EPOLLIN)
            except OSError:
                os.close(pidfd)
                raise
            self._processes[mark.engine] = _Process(mark.engine, mark.pid, pidfd, folder)
            return EngineFound(mark.engine, mark.declaration, mark.pid, is_running=True)
        if pidfd is not None:
            os.close(pidfd)
        return EngineFound(mark.engine, mark.declaration, mark.pid, is_running=False, text=last_line(folder))

    # ── ending ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def stop(self, engine: str) -> None:
        with self._lock:
            process = self._processes.get(engine)
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process.pidfd, signal.SIGTERM)

    def kill(self, engine: str) -> None:
        with self._lock:
            process = self._processes.get(engine)
            if process is not None and not process.has_ended:
                _kill_group(process.pid)

    def forget(self, engine: str) -> None:
        with self._lock:
            is_running = engine in self._processes
        folder = self._folder / engine
        if is_running or not folder.is_dir():
            return
        try:
            with self._log_lock:
                if (folder / LOG_NAME).exists():
                    self._archive.keep(engine, whole_log(folder, MAX_KEPT_LOG_BYTES))
                for name in (MARK_NAME, LOG_NAME, OLDER_NAME):
                    (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"What is left of engine {engine} cannot be removed: {error}.") from error

    def log_part(self, engine: str, after: str = "", max_bytes: int = LOG_PART_BYTES) -> LogPart:
        folder = self._folder / engine
        with self._log_lock:
            if (folder / LOG_NAME).exists():
                return log_part(folder, after, max_bytes, has_ended=_has_ended(folder))
            try:
                with LogPiece(self._archive.path(engine)) as kept:
                    return part_of([kept], after, max_bytes, has_ended=True)
            except OSError as error:
                if folder.is_dir():  # It is about to be started.
                    return LogPart("", "0")
                raise no_log_of(engine) from error

    def close(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        os.eventfd_write(self._wake, 1)
        self._watcher.join()
        self._epoll.close()
        os.close(self._wake)
        for process in self._processes.values():
            os.close(process.pidfd)
        self._processes.clear()

    # ── watching ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _watch(self) -> None:
        while not self._is_closed:
            ready = {descriptor for descriptor, _ in self._epoll.poll(LOG_CHECK_S)}
            with self._lock:
                running = tuple(self._processes.values())
            for process in running:
                try:
                    if process.pidfd in ready:
                        self._tell_end(process)
                    else:
                        with self._log_lock:
                            bound_log(process.folder)
                except Exception:  # noqa: BLE001  a bug with one engine must not leave all others unwatched; it is logged
                    _log.exception("The watch over engine %s goes on", process.engine)

    def _tell_end(self, process: _Process) -> None:
        with self._lock:
            self._epoll.unregister(process.pidfd)
            exit_code = _wait_for(process.pid)
            del self._processes[process.engine]
            os.close(process.pidfd)
        self._tell(EngineExited(process.engine, exit_code, last_line(process.folder)))


def _has_ended(folder: Path) -> bool:
    """Whether the process of an engine's folder has ended; one without a mark is being started or forgotten."""
    mark = find_mark(folder)
    return mark is not None and not mark.is_alive()


def _configuration_line(configuration: EngineConfiguration, writing: int) -> bytes:
    """Return what the engine reads, for which there is room in the pipe, so that writing never blocks."""
    line = json_codec.dumps(configuration) + b"\n"
    try:
        if len(line) > fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, len(line))
    except OSError as error:
        name = configuration.declaration.name
        raise InvalidInput(
            f"The declaration of stream {name!r} takes {len(line)} bytes.", hint="Put large parameters into a file."
        ) from error
    return line


def _environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    return {**own, "PYTHONUNBUFFERED": "1"}


def _inheritable_descriptors() -> list[int]:
    """Return what the controller was given open by whoever started it; Python's own files are not inherited."""
    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # The one that listed the folder is closed by now.
            if descriptor > 2 and os.get_inheritable(descriptor):
                found.append(descriptor)
    return found


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _end(pid: int) -> None:
    """End a child that was started a moment ago and is not to be watched."""
    _kill_group(pid)
    _wait_for(pid)


def _wait_for(pid: int) -> int | None:
    """Wait for a process that is ending; return its exit code, which is known of our own children only."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return None
    # Until it is waited for, nobody else can have its pid, so this reaches only what it has started and left behind.
    _kill_group(pid)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
