"""A worker as a running service: the controller's decisions, carried out.

    engines ──reports──► ControlDesk ─┐                          ┌─► Runtime: start, stop, kill, forget
    Runtime ──exits──────────────────►├─ events ─► Controller ───┤
    master  ──desired──► Reporter ────┘                          └─► Reporter ──reports──► master
                            └─ logs that are wished for ─► LogReader ──parts of logs──► master

One main thread takes events and carries instructions out; the runtime and the reporter have threads of their own and
only put events into the queue. Engines outlive a service that is killed or abandoned: the next one adopts them.
"""

from __future__ import annotations

import logging
import queue
import random
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from harmonicio import __version__
from harmonicio.control.handler_board import BOARD_NAME, read_board
from harmonicio.control.locked_folder import make_private
from harmonicio.control.messages import EngineExit, ReportAnswer, WorkerRegistration, WorkerReport, WorkerWelcome
from harmonicio.core.engine import ExitReason
from harmonicio.core.errors import ConnectionEnded, HarmonicIOError, Unavailable
from harmonicio.core.names import check_name
from harmonicio.worker.control_desk import ControlDesk
from harmonicio.worker.controller import Controller
from harmonicio.worker.folder import DataFolder
from harmonicio.worker.host_load import HostMeter
from harmonicio.worker.instructions import (
    DrainEngine,
    EngineExited,
    EngineNotStarted,
    Event,
    ExitsAcknowledged,
    ForgetEngine,
    HandlersSeen,
    Instruction,
    KillEngine,
    MasterMet,
    ReportNow,
    StartEngine,
    StopOrdered,
    Tick,
)
from harmonicio.worker.log_reader import LogReader
from harmonicio.worker.options import WorkerOptions
from harmonicio.worker.outfit import Outfitter
from harmonicio.worker.reporter import Master, Reporter
from harmonicio.worker.runtimes import open_runtime
from harmonicio.worker.runtimes.base import EngineSpec, RuntimeContext

_log = logging.getLogger(__name__)

TICK_S = 0.1
#: After the drain deadline, engines are killed; that takes a moment.
KILL_MARGIN_S = 10.0


class WorkerService:
    """A running worker: :meth:`start` it, then :meth:`stop` it, or :meth:`abandon` it and its engines live on.

    Args:
        options: How to run it.
        master: Asked and told; closed by the service.

    Raises:
        InvalidInput: the name cannot be used.
        ConfigurationError: there is no such runtime, certificate and key cannot be used, or engines would be exposed.
        Conflict: another service uses the data folder.
        StorageError: a folder cannot be used.
    """

    def __init__(self, options: WorkerOptions, master: Master) -> None:
        options.tls.check_bind("This worker's engines", options.host, is_insecure=options.is_insecure)
        self._options = options
        self._outfitter = Outfitter(
            worker=check_name("worker", options.name),
            master_url=master.url,
            listen_host=options.host,
            scratch_folder=options.scratch_folder,
            payload_budget_bytes=options.payload_budget_bytes,
            orphan_after_s=options.orphan_after_s,
            tls=options.tls,
        )
        self._events: queue.SimpleQueue[Event | WorkerWelcome | ReportAnswer] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._controller = Controller(
            max_engines=options.max_engines,
            draw_engine_id=lambda: f"e-{secrets.token_hex(4)}",
            chance=random.Random(),
        )
        self._welcome: WorkerWelcome | None = None
        self._unfinished = 0
        self._ticks_at = 0.0
        self._meter = HostMeter(options.scratch_folder)
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker-main", daemon=True)
        with ExitStack() as parts:
            make_private(options.scratch_folder)
            self._folder = parts.enter_context(closing(DataFolder(options.data_folder)))
            self._selector = parts.enter_context(closing(selectors.DefaultSelector()))
            self._wake_reader, self._wake_writer = socket.socketpair()
            for end in (self._wake_reader, self._wake_writer):
                parts.enter_context(closing(end)).setblocking(False)
            self._desk = ControlDesk(self._selector)
            parts.callback(self._desk.close_all)
            self._runtime = parts.enter_context(open_runtime(options.runtime, self._context()))
            self._parts = parts.pop_all()
        self._logs = LogReader(self._runtime.log_part, partial(master.answer_log, options.name))
        self._reporter = self._new_reporter(master)

    def _context(self) -> RuntimeContext:
        return RuntimeContext(
            self._folder.engines,
            self._tell,
            self._options.scratch_folder,
            worker=self._folder.identity,
            max_engines=self._options.max_engines,
            docker=self._options.docker,
        )

    def _new_reporter(self, master: Master) -> Reporter:
        options = self._options
        return Reporter(
            master,
            WorkerRegistration(
                options.name,
                socket.gethostname(),
                options.max_engines,
                options.runtime,
                __version__,
                self._folder.identity,
                self._runtime.starts,
            ),
            make_report=self._report,
            on_welcome=self._tell,
            on_desired=self._tell,
            on_answered=self._answered,
            on_logs_wanted=self._logs.want,
        )

    def __repr__(self) -> str:
        return f"<WorkerService {self._options.name} {self._controller!r} {self._reporter!r}>"

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Adopt the engines that are there, and do what the master wants."""
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        self._adopt()
        self._thread.start()
        self._logs.start()
        self._reporter.start()

    def stop(self, drain_s: float = 30.0, hurry: threading.Event | None = None) -> bool:
        """Drain all engines, tell the master, and end. May be called more than once.

        Args:
            hurry: When it is set, engines have no more time.

        Returns:
            Whether every engine finished what it ran within ``drain_s``; else some were killed or gave up.
        """
        if self._is_ending.is_set():
            return True
        unfinished_before = self._unfinished
        self._tell(StopOrdered(drain_s))
        if self._thread.ident is not None:
            self._wait_for_no_engines(drain_s, hurry or threading.Event())
        if self.engines:
            _log.error("Engines %s could not be ended.", ", ".join(self.engines))
        self._close(is_leaving=True)
        return self._unfinished == unfinished_before

    def abandon(self) -> None:
        """End without touching the engines, which the next service on this folder adopts."""
        if not self._is_ending.is_set():
            self._close(is_leaving=False)

    def _close(self, *, is_leaving: bool) -> None:
        self._is_ending.set()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._logs.close()
        self._reporter.close(is_leaving=is_leaving)
        self._parts.close()

    def _wait_for_no_engines(self, drain_s: float, hurry: threading.Event) -> None:
        kill_by, is_hurrying = time.monotonic() + drain_s, False
        while self.engines and time.monotonic() < kill_by + KILL_MARGIN_S:
            if hurry.is_set() and not is_hurrying:
                kill_by, is_hurrying = min(kill_by, time.monotonic()), True
                self._tell(StopOrdered(0.0))
            self._is_ending.wait(0.02)

    # ── what others want to know ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def gone_parts(self) -> tuple[str, ...]:
        """Parts that have ended although the service has not: without them it only looks well."""
        parts = {
            "main thread": self._thread.is_alive(),
            "reporter": self._reporter.is_intact,
            "watch over engines": self._runtime.is_intact,
        }
        return () if self._is_ending.is_set() else tuple(name for name, is_intact in parts.items() if not is_intact)

    @property
    def engines(self) -> tuple[str, ...]:
        """The ids of all engines that have not ended."""
        with self._lock:
            return self._controller.engines

    def logs(self, engine: str) -> str:
        """Return the end of an engine's log.

        Raises:
            NotFound: nothing is known of this engine.
        """
        return self._runtime.logs(engine)

    # ── what is told and asked, from any thread ──────────────────────────────────────────────────────────────────────

    def _tell(self, event: Event | WorkerWelcome | ReportAnswer) -> None:
        self._events.put(event)
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # Wake-ups enough are waiting, or the service has ended.
            self._wake_writer.send(b"\0")

    def _answered(self, report: WorkerReport, answer: ReportAnswer) -> None:
        self._tell(answer)
        if report.exits:
            self._tell(ExitsAcknowledged(tuple(each.engine for each in report.exits)))

    def _report(self, sequence: int) -> WorkerReport:
        load = self._meter.measure()
        with self._lock:
            return self._controller.report(sequence, load, time.monotonic())

    # ── the main thread ──────────────────────────────────────────────────────────────────────────────────────────────

    def _adopt(self) -> None:
        found = self._runtime.list()
        self._folder.remove_strangers({each.engine for each in found})
        for each in found:
            if each.is_running:
                _log.info("Engine %s of stream %s is adopted.", each.engine, each.declaration.name)
                self._listen(each.engine)
            self._decide(replace(each, bond=self._folder.bond(each.engine)))

    def _listen(self, engine: str) -> None:
        try:
            self._desk.open(engine, self._folder.socket_of(engine))
        except ConnectionEnded as error:  # It will be silent, and be replaced for that.
            _log.error("Engine %s cannot be heard: %s", engine, error)

    def _run(self) -> None:
        while not self._is_ending.is_set():
            self._attempt(self._turn)

    def _attempt(self, act: Callable[..., None], *arguments: object) -> None:
        """Act, and go on whatever comes: nobody else watches the engines."""
        try:
            act(*arguments)
        except Exception:  # noqa: BLE001  a bug in one thing must not end everything else; it is logged
            kinds = ", ".join(type(each).__name__ for each in arguments)  # What they hold is not for a log.
            _log.exception("The worker goes on without this: %s(%s)", act.__name__, kinds)
            self._is_ending.wait(TICK_S)  # What fails again and again must not fill the log.

    def _turn(self) -> None:
        for key, _ in self._selector.select(max(0.0, self._ticks_at - time.monotonic())):
            self._attempt(self._serve, key.data)
        while not self._events.empty():
            self._attempt(self._take, self._events.get())
        if time.monotonic() >= self._ticks_at:
            self._ticks_at = time.monotonic() + TICK_S
            self._desk.announce_tls(self._options.tls.identity)
            for engine in self.engines:
                self._attempt(self._look_at_handlers, engine)
            self._attempt(self._decide, Tick())

    def _serve(self, ready: Any) -> None:
        if ready is None:
            self._take_wake_ups()
            return
        for report in self._desk.serve(ready):
            self._decide(report)

    def _look_at_handlers(self, engine: str) -> None:
        with self._lock:
            rows = self._controller.concurrency(engine)
        running = read_board(self._folder.socket_of(engine) / BOARD_NAME, rows)
        if running is not None:
            self._decide(HandlersSeen(engine, running))

    def _take_wake_ups(self) -> None:
        with suppress(BlockingIOError):
            while self._wake_reader.recv(4096):
                pass

    def _take(self, event: Event | WorkerWelcome | ReportAnswer) -> None:
        if isinstance(event, WorkerWelcome):
            self._welcome = event
            self._decide(MasterMet(self._outfitter.bond(event)))
            return
        if isinstance(event, ReportAnswer):
            self._desk.announce_epoch(event.epoch)
            return
        if isinstance(event, EngineExited):
            self._attempt(self._hear_last_words, event.engine)
            self._attempt(self._look_at_handlers, event.engine)
            if event.exit_code is not None and event.exit_code > 0:
                self._unfinished += 1
        self._decide(event)

    def _hear_last_words(self, engine: str) -> None:
        for report in self._desk.last_words(engine):
            self._decide(report)

    def _decide(self, event: Event) -> None:
        """Decide under the lock, act outside it."""
        with self._lock:
            instructions = self._controller.handle(event, time.monotonic())
        for instruction in instructions:
            try:
                self._carry_out(instruction)
            except HarmonicIOError as error:
                _log.error("%s", error)
            except Exception:  # noqa: BLE001  one engine's trouble must not end the worker; it is logged
                _log.exception("An instruction could not be carried out: %s", type(instruction).__name__)

    def _carry_out(self, instruction: Instruction) -> None:
        if isinstance(instruction, StartEngine):
            self._start_engine(instruction)
        elif isinstance(instruction, DrainEngine):
            self._drain_engine(instruction)
        elif isinstance(instruction, KillEngine):
            _log.warning("Engine %s is killed: %s", instruction.engine, instruction.text)
            self._unfinished += 1
            self._runtime.kill(instruction.engine)
        elif isinstance(instruction, ForgetEngine):
            self._forget_engine(instruction.exit)
        elif isinstance(instruction, ReportNow):
            self._reporter.report_within(instruction.within_s)

    def _forget_engine(self, exited: EngineExit) -> None:
        # Of kills and of engines that do not start it has been told already.
        is_news = exited.reason in (ExitReason.CRASHED, ExitReason.UNKNOWN)
        level = logging.WARNING if is_news else logging.INFO
        _log.log(level, "Engine %s of stream %s has ended. %s", exited.engine, exited.stream, exited.text)
        for step in (self._desk.close, self._runtime.forget, self._folder.remove):
            self._attempt(step, exited.engine)

    def _start_engine(self, order: StartEngine) -> None:
        try:
            self._runtime.start(self._prepare(order))
        except Exception as error:  # noqa: BLE001  whatever it is, the controller must know that no engine starts
            # What is foreseen is told to the master as the stream's trouble, again with each attempt.
            level = logging.INFO if isinstance(error, HarmonicIOError) else logging.WARNING
            name = order.declaration.name
            _log.log(level, "Engine %s of stream %s: %s", order.engine, name, error, exc_info=level == logging.WARNING)
            self._tell(EngineNotStarted(order.engine, str(error)))
            return
        _log.info("Engine %s of stream %s starts.", order.engine, order.declaration.name)

    def _prepare(self, order: StartEngine) -> EngineSpec:
        """Make the engine's folder with its control socket, and what it is given."""
        if self._welcome is None:
            raise Unavailable("The master has not said yet how engines prove themselves.")
        bond, runtime = self._outfitter.bond(self._welcome), self._runtime
        folder = self._folder.add(order.engine, bond, runtime.owner, is_bounded=runtime.sees_mounts)
        socket_path = self._desk.open(order.engine, self._folder.socket_of(order.engine))
        configuration = self._outfitter.configuration(
            order.engine,
            order.declaration,
            self._welcome,
            control_socket=socket_path,
            wall_s=time.time(),
        )
        return EngineSpec(order.engine, folder, configuration, order.image)

    def _drain_engine(self, order: DrainEngine) -> None:
        if order.is_starting or not self._desk.drain(order.engine, order.within_s):
            self._runtime.stop(order.engine)
