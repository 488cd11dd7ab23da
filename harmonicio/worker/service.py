"""A worker as a running service: the controller's decisions, carried out.

    engines ──reports──► ControlDesk ─┐                          ┌─► Runtime: start, stop, kill, forget
    Runtime ──exits──────────────────►├─ events ─► Controller ───┤
    master  ──desired──► Reporter ────┘                          └─► Reporter ──reports──► master

One main thread takes events and carries instructions out; the runtime and the reporter have threads of their own and
only put events into the queue. Engines outlive a service that is killed: the next one adopts them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import random
import secrets
import selectors
import shutil
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from harmonicio import __version__
from harmonicio.control import tickets
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import (
    Desired,
    EngineConfiguration,
    HostLoad,
    WorkerRegistration,
    WorkerReport,
    WorkerWelcome,
)
from harmonicio.core.errors import Conflict, HarmonicIOError, StorageError, Unavailable
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.names import check_name
from harmonicio.core.stream import StreamDeclaration
from harmonicio.worker.control_desk import SOCKET_NAME, ControlDesk
from harmonicio.worker.controller import Controller
from harmonicio.worker.instructions import (
    DrainEngine,
    EngineNotStarted,
    EngineStarted,
    Event,
    ExitsAcknowledged,
    ForgetEngine,
    Instruction,
    KillEngine,
    ReportNow,
    StartEngine,
    StopOrdered,
    Tick,
)
from harmonicio.worker.reporter import Reporter
from harmonicio.worker.runtimes import open_runtime
from harmonicio.worker.runtimes.base import EngineSpec

_log = logging.getLogger(__name__)

TICK_S = 0.1
#: After the drain deadline, engines are killed; that takes a moment.
KILL_MARGIN_S = 10.0


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How to run a worker.

    Attributes:
        name: Unique among the workers of a master.
        data_folder: Engines' folders and logs; used by one service at a time.
        scratch_folder: For payloads that are too large for memory.
        runtime: What starts engines, by name.
        host: Address on which engines listen and connectors reach them.
        payload_budget_bytes: Payload bytes in memory of one engine.
        orphan_after_s: Engines that have no controller for this long drain and end.
    """

    name: str
    data_folder: Path
    scratch_folder: Path
    max_engines: int
    runtime: str = "process"
    host: str = "127.0.0.1"
    payload_budget_bytes: int = 512 * 1024**2
    orphan_after_s: float = 120.0


class WorkerService:
    """A running worker: :meth:`start` it, then :meth:`stop` it.

    Args:
        options: How to run it.
        client: Asks the master; closed by the service.

    Raises:
        InvalidInput: the name cannot be used.
        ConfigurationError: there is no such runtime.
        Conflict: another service uses the data folder.
        StorageError: a folder cannot be used.
    """

    def __init__(self, options: WorkerOptions, client: MasterClient) -> None:
        check_name("worker", options.name)
        self._options = options
        self._client = client
        self._engines_folder = options.data_folder / "engines"
        self._lock_file = self._take_folders()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._controller = Controller(
            max_engines=options.max_engines,
            draw_engine_id=lambda: f"e-{secrets.token_hex(4)}",
            chance=random.Random(),
        )
        self._welcome: WorkerWelcome | None = None
        self._sequence = 0
        self._is_stopping = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._desk = ControlDesk(self._selector)
        self._runtime = open_runtime(options.runtime, self._engines_folder, self._tell)
        self._reporter = Reporter(
            client,
            WorkerRegistration(options.name, socket.gethostname(), options.max_engines, options.runtime, __version__),
            make_report=self._report,
            on_welcome=self._welcomed,
            on_desired=self._tell,
            on_answered=lambda report: self._tell(ExitsAcknowledged(tuple(each.engine for each in report.exits))),
        )
        self._thread = threading.Thread(target=self._run, name="worker-main", daemon=True)

    def __repr__(self) -> str:
        return f"<WorkerService {self._options.name} {self._controller!r}>"

    def start(self) -> None:
        """Adopt the engines that are there, and do what the master wants."""
        psutil.cpu_percent()  # The first call only sets the mark that later ones measure from.
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        for found in self._runtime.list():
            if found.is_running:
                self._listen(found.engine)
            self._tell(found)
        self._thread.start()
        self._reporter.start()

    def stop(self, drain_s: float = 30.0) -> bool:
        """Drain all engines, tell the master, and end; returns whether every engine ended by itself in time."""
        if self._is_stopping.is_set():
            return True
        self._tell(StopOrdered(drain_s))
        deadline = time.monotonic() + drain_s
        self._wait_for_no_engines(deadline)
        is_clean = not self._engines()
        self._wait_for_no_engines(deadline + KILL_MARGIN_S)
        self._close(is_leaving=True)
        return is_clean

    def abandon(self) -> None:
        """End without touching the engines, which the next service on this folder adopts."""
        if not self._is_stopping.is_set():
            self._close(is_leaving=False)

    def logs(self, engine: str) -> str:
        """Return the end of an engine's log.

        Raises:
            NotFound: nothing is known of this engine.
        """
        return self._runtime.logs(engine)

    def _close(self, *, is_leaving: bool) -> None:
        self._is_stopping.set()
        self._wake()
        self._thread.join()
        self._reporter.close(is_leaving=is_leaving)
        self._runtime.close()
        self._desk.close_all()
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()
        os.close(self._lock_file)

    def _wait_for_no_engines(self, deadline: float) -> None:
        while self._engines() and time.monotonic() < deadline:
            self._is_stopping.wait(0.02)

    def _engines(self) -> tuple[str, ...]:
        with self._lock:
            return self._controller.engines

    # ── what is told, from any thread ────────────────────────────────────────────────────────────────────────────────

    def _tell(self, event: Event) -> None:
        self._events.put(event)
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # Wake-ups enough are waiting, or the service has ended.
            self._wake_writer.send(b"\0")

    def _welcomed(self, welcome: WorkerWelcome) -> None:
        with self._lock:
            self._welcome = welcome

    def _report(self) -> WorkerReport:
        load = _host_load(self._options.data_folder)
        with self._lock:
            self._sequence += 1
            return self._controller.report(self._sequence, load, time.monotonic())

    # ── the main thread ──────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            for key, _ in self._selector.select(TICK_S):
                if key.data is None:
                    with suppress(BlockingIOError):
                        while self._wake_reader.recv(4096):
                            pass
                else:
                    for report in self._desk.serve(key.data):
                        self._decide(report)
            while not self._events.empty():
                self._decide(self._events.get())
            self._decide(Tick())

    def _decide(self, event: Event) -> None:
        """Decide under the lock, act outside it."""
        if isinstance(event, Desired) and self._welcome is None:
            return  # Without a key no engine can be started; it comes again with the next welcome.
        with self._lock:
            instructions = self._controller.handle(event, time.monotonic())
        for instruction in instructions:
            try:
                self._carry_out(instruction)
            except HarmonicIOError as error:
                _log.error("%s", error)
            except Exception:  # noqa: BLE001  one engine's trouble must not end the worker; it is logged
                _log.exception("An instruction could not be carried out: %s", instruction)

    def _carry_out(self, instruction: Instruction) -> None:
        if isinstance(instruction, StartEngine):
            self._start_engine(instruction.engine, instruction.declaration)
        elif isinstance(instruction, DrainEngine):
            if not self._desk.drain(instruction.engine, instruction.within_s):
                self._runtime.stop(instruction.engine)
        elif isinstance(instruction, KillEngine):
            _log.warning("Engine %s is killed: %s", instruction.engine, instruction.text)
            self._runtime.kill(instruction.engine)
        elif isinstance(instruction, ForgetEngine):
            self._desk.close(instruction.engine)
            self._runtime.forget(instruction.engine)
            shutil.rmtree(self._engines_folder / instruction.engine, ignore_errors=True)
        elif isinstance(instruction, ReportNow):
            self._reporter.report_within(instruction.within_s)

    def _start_engine(self, engine: str, declaration: StreamDeclaration) -> None:
        folder = self._engines_folder / engine
        try:
            folder.mkdir(mode=0o700)
            self._listen(engine)
            pid = self._runtime.start(EngineSpec(engine, folder, self._configuration(engine, folder, declaration)))
        except (HarmonicIOError, OSError) as error:
            self._desk.close(engine)
            self._tell(EngineNotStarted(engine, str(error)))
        else:
            self._tell(EngineStarted(engine, pid))

    def _listen(self, engine: str) -> None:
        self._desk.open(engine, self._engines_folder / engine)

    def _configuration(self, engine: str, folder: Path, declaration: StreamDeclaration) -> EngineConfiguration:
        with self._lock:
            welcome = self._welcome
        if welcome is None:
            raise Unavailable("The master has not said yet how engines prove themselves.")
        key = tickets.derive_key(welcome.ticket_key, "engine", engine)
        claims = Claims(
            TicketKind.ENGINE, declaration.name, tickets.ENGINE_TICKET_TERM_S, time.time(), epoch=0, engine=engine
        )
        return EngineConfiguration(
            engine=engine,
            worker=self._options.name,
            declaration=declaration,
            key=key,
            ticket=tickets.sign(key, claims),
            master_url=self._client.url,
            master_data=welcome.data_address,
            control_socket=str(folder / SOCKET_NAME),
            listen_host=self._options.host,
            scratch_folder=str(self._options.scratch_folder),
            payload_budget_bytes=self._options.payload_budget_bytes,
            orphan_after_s=self._options.orphan_after_s,
        )

    def _take_folders(self) -> int:
        try:
            self._engines_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._options.scratch_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock_file = os.open(self._options.data_folder / "worker.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(
                f"The folder {error.filename} cannot be used: {error.strerror}.", hint="Choose another folder."
            ) from None
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock_file)
            raise Conflict(
                f"Another worker uses the folder {self._options.data_folder}.",
                hint="Stop it, or give this one its own folder.",
            ) from None
        return lock_file


def _host_load(folder: Path) -> HostLoad:
    memory = psutil.virtual_memory()
    return HostLoad(
        cpu_fraction=psutil.cpu_percent() / 100,
        memory_used_bytes=memory.total - memory.available,
        memory_total_bytes=memory.total,
        disk_free_bytes=shutil.disk_usage(folder).free,
    )
