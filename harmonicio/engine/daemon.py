"""The engine daemon: joins the parts around one handler and runs them until it drains.

      start() ──► starting ──setup returned──► idle ◄──► busy ──drain()──► draining ──► drained
                     │                                                        ▲
                     └── ConfigurationError        order, SIGTERM, orphaned ──┘

A drain tells every peer, refuses what has not been started, lets handlers finish and sends their outcomes.

A handler shares its process with all this, and can break it: close every file, say. An engine whose own parts are gone
must not look idle for ever. Each ``LOOK_EVERY_S``, before a suspect begins and when it has returned, the daemon looks
whether they are there; if not, its process ends, which is a crash: of the suspect, when one had the engine, else of
nobody.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harmonicio.control.client import MasterClient
from harmonicio.control.engine_messages import DATA_SOCKET_NAME, EngineConfiguration, EngineOrder
from harmonicio.control.handler_board import BOARD_NAME, HandlerBoard
from harmonicio.control.messages import EngineReport
from harmonicio.control.tickets import engine_bearer
from harmonicio.core.clock import SystemClock
from harmonicio.core.engine import Availability, report_interval_s
from harmonicio.core.errors import ConfigurationError, ConnectionEnded, NotAllowed, Unavailable
from harmonicio.core.lease import Address
from harmonicio.engine import plugin
from harmonicio.engine.arena_payloads import ArenaPayloads
from harmonicio.engine.backlog_connection import BacklogConnection
from harmonicio.engine.control_connection import ControlConnection
from harmonicio.engine.emission import Emitter
from harmonicio.engine.handler import load
from harmonicio.engine.message import Emission
from harmonicio.engine.payloads import PayloadStore
from harmonicio.engine.reception import ASK_AGAIN, TicketDesk, answer_to, check_role, take_arena
from harmonicio.engine.roster import Roster
from harmonicio.engine.session import Session, Workshop
from harmonicio.engine.slots import Slots
from harmonicio.engine.work import Work
from harmonicio.transport.credentials import TlsCredentials
from harmonicio.transport.data_port import DataPort
from harmonicio.transport.link import Link
from harmonicio.wire.events import Hello

_log = logging.getLogger(__name__)

#: When nothing runs any more, peers have this long to see their last answers and to close.
LEAVE_WITHIN_S = 1.0
#: How often it looks for connections that were idle for too long: there may be thousands.
LOOK_AT_SESSIONS_S = 0.5
_POLL_S = 0.01
#: How often an engine that serves looks whether its own parts are there.
LOOK_EVERY_S = 0.25


class Daemon:
    """One engine.

    Args:
        configuration: As its controller gave it.
        file_or_module: Where the handler is.
        on_broken: Ends the process, given what is missing of the engine.
    """

    def __init__(
        self,
        configuration: EngineConfiguration,
        file_or_module: str,
        on_broken: Callable[[str], None] = lambda text: _log.error("%s", text),
    ) -> None:
        declaration = configuration.declaration
        self._configuration = configuration
        self._file_or_module = file_or_module
        self._on_broken = on_broken
        self._clock = SystemClock()
        self._state_since = time.monotonic()
        self._state = Availability.STARTING
        self._lock = threading.Lock()
        self._is_closed = False
        self._drain_until = 0.0
        self._drain_begun = threading.Event()
        self._roster = Roster()
        self._sessions_seen = (0.0, 0)
        self._numbers = itertools.count(1)
        self._desk = TicketDesk(configuration.key, declaration.name, configuration.engine, self._clock)
        self._payloads = PayloadStore(
            configuration.payload_budget_bytes, declaration.memory_payload_max_bytes, configuration.scratch_folder
        )
        self._control = ControlConnection(
            configuration.control_socket,
            self.report,
            on_order=self._ordered,
            on_orphaned=lambda: self.drain(declaration.timeout_s),
            interval_s=report_interval_s(declaration.timeout_s),
            orphan_after_s=configuration.orphan_after_s,
        )
        self._slots = Slots(
            declaration.concurrency,
            declaration.prefetch_s,
            configuration.payload_budget_bytes,
            on_busy=self._control.report_soon,
            on_alone=self._look_at_parts,
        )
        self._board: HandlerBoard | None = None
        self._identity = configuration.tls
        self._tls = TlsCredentials(lambda: self._identity)
        self._backlog = BacklogConnection(configuration, self._tls, self._open_backlog)
        self._emitter = Emitter(self._new_client, configuration.engine, declaration.timeout_s, tls=self._tls)
        self._client: MasterClient | None = None
        self._workshop: Workshop | None = None
        self._port: DataPort | None = None

    def __repr__(self) -> str:
        return f"<Daemon {self._configuration.engine} {self._state}: {self._slots!r}, {self._roster!r}>"

    @property
    def address(self) -> Address | None:
        """The data port; None while the engine is starting."""
        return None if self._port is None else self._port.address

    # ── starting ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Load the handler, call its setup and serve.

        Raises:
            ConfigurationError: handler or plugin cannot be loaded, or the setup raised; says which and why.
            HarmonicIOError: the data port cannot listen, or a folder cannot be used.
        """
        self._control.start()
        try:
            os.makedirs(self._configuration.scratch_folder, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"The scratch folder {self._configuration.scratch_folder} cannot be made: {error.strerror or error}."
            ) from None
        self._workshop = Workshop(self._configuration.declaration, self._load(), self._slots, self._payloads)
        self._board = HandlerBoard(
            Path(self._configuration.control_socket).with_name(BOARD_NAME), self._configuration.declaration.concurrency
        )
        self._slots.start(self._board)
        if self._drain_begun.is_set():
            return
        configuration = self._configuration
        port = DataPort(
            configuration.listen_host,
            configuration.listen_port,
            self._receive,
            name="engine",
            socket_path=Path(configuration.control_socket).absolute().with_name(DATA_SOCKET_NAME),
            tls=self._tls,
        )
        port.start()
        self._port = port
        self._backlog.start()
        self._control.report_soon()
        _log.info("Engine %s serves stream %s on %s", self._configuration.engine, self._stream, port.address)

    @property
    def _stream(self) -> str:
        return self._configuration.declaration.name

    def _load(self) -> Work:
        declaration = self._configuration.declaration
        handler = load(self._file_or_module)
        plugins: list[plugin.EnginePlugin] = []
        try:
            for name, options in declaration.plugins.items():
                plugins.append(plugin.PLUGINS.load(name)(options, self._plugin_context(handler.is_streaming)))
            return Work(handler, declaration.parameters, plugins, deliver=self._deliver)
        except Exception as error:
            for opened in plugins:
                opened.close()
            if isinstance(error, ConfigurationError):
                raise
            what = f"The setup of {handler.origin}" if len(plugins) == len(declaration.plugins) else "A plugin"
            raise ConfigurationError(f"{what} failed: {type(error).__name__}: {error}") from error

    def _deliver(self, emissions: Sequence[Emission], returned_at: float) -> None:
        with self._slots.emitting():
            self._emitter.deliver(emissions, returned_at)

    def _plugin_context(self, is_streaming: bool) -> plugin.PluginContext:
        configuration = self._configuration
        if self._client is None:
            self._client = self._new_client()
        declaration = configuration.declaration
        return plugin.PluginContext(
            declaration.name,
            declaration.version,
            configuration.engine,
            self._client,
            image=configuration.image,
            is_streaming=is_streaming,
        )

    def _new_client(self) -> MasterClient:
        """Return a client that acts as this engine."""
        configuration = self._configuration
        bearer = engine_bearer(configuration.worker, configuration.engine, configuration.ticket)
        return MasterClient(configuration.master_url, bearer, tls=self._tls)

    def _look_at_parts(self) -> None:
        """End the process when a part of the engine is gone."""
        parts = {
            "The data port": self._port,
            "The board": self._board,
            "The control connection": self._control,
            "The connection to the backlog": self._backlog,
            "The flusher": self._slots.flusher,
        }
        gone = [name for name, part in parts.items() if part is not None and not part.is_intact]
        if gone and not self._drain_begun.is_set():
            self._slots.blame_nobody()
            self._on_broken(f"{' and '.join(gone)} of the engine is gone: a handler has broken its process.")

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _receive(self, link: Link, hello: Hello) -> tuple[Hello, Session]:
        declaration = self._configuration.declaration
        check_role(hello, declaration)
        claims = self._desk.present(hello.ticket, hello.source)
        if self._drain_begun.is_set():
            raise Unavailable("The engine takes no new connections, because it ends.")
        ends_at = self._desk.ends_at(claims.lease)
        taken = len(self._roster.sessions_with_arena())
        arena = take_arena(link, hello, taken, self._configuration.payload_budget_bytes)
        session = self._new_session(
            link, hello.source, may_idle_until=ends_at, idle_for_s=claims.term_s, epoch=claims.epoch, arena=arena
        )
        return answer_to(hello, declaration, self._configuration.engine, arena), session

    def _open_backlog(self, link: Link) -> Session:
        return self._new_session(link, "master", is_backlog=True)

    def _new_session(
        self,
        link: Link,
        name: str,
        *,
        is_backlog: bool = False,
        may_idle_until: float = float("inf"),
        idle_for_s: float = 0.0,
        epoch: int | None = None,
        arena: ArenaPayloads | None = None,
    ) -> Session:
        assert self._workshop is not None
        named = f"{name}#{next(self._numbers)}"
        session = Session(
            self._workshop, link, named, is_backlog=is_backlog, on_closed=self._roster.remove, arena=arena
        )
        self._roster.add(session, time.monotonic(), may_idle_until=may_idle_until, idle_for_s=idle_for_s, epoch=epoch)
        return session

    def _end_sessions(self) -> None:
        """End the connections that were idle for too long, and those whose leases were revoked."""
        seen = (time.monotonic() // LOOK_AT_SESSIONS_S, self._desk.epoch)
        if seen == self._sessions_seen:
            return
        self._sessions_seen = seen
        for session in self._roster.idle_sessions(time.monotonic()):
            text = "The lease has ended and the connection was idle for a term."
            self._slots.flusher.start_soon(functools.partial(session.say_goodbye, "idle", text))
        for session in self._roster.older_sessions(self._desk.epoch):
            text = "The lease was revoked."
            self._slots.flusher.start_soon(functools.partial(session.say_goodbye, NotAllowed.code, text, ASK_AGAIN))

    # ── reporting ────────────────────────────────────────────────────────────────────────────────────────────────────

    def report(self) -> EngineReport:
        """Return this engine as it is now."""
        self._end_sessions()
        for session in self._roster.sessions_with_arena():
            if session.answers.holds_payloads:
                self._slots.flusher.flush_soon(session)
        now = time.monotonic()
        state = self._state_now()
        if state is not self._state:
            self._state, self._state_since = state, now
        figures = self._roster.figures()
        return EngineReport(
            self._configuration.engine,
            self._stream,
            self._configuration.declaration.version,
            state,
            now - self._state_since,
            address=self.address,
            pid=os.getpid(),
            running=self._slots.running(now),
            handled=figures.handled,
            failed=figures.failed,
            handled_from_backlog=figures.handled_from_backlog,
            received_bytes=figures.received_bytes,
            socket=DATA_SOCKET_NAME if self._port is not None and self._port.socket_path is not None else "",
        )

    def _state_now(self) -> Availability:
        if self._drain_begun.is_set():
            return Availability.DRAINING
        if self._port is None:
            return Availability.STARTING
        return Availability.IDLE if self._slots.is_idle() else Availability.BUSY

    # ── ending ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _ordered(self, order: EngineOrder) -> None:
        if order.epoch:
            self._desk.epoch = order.epoch
            self._control.report_soon()  # Which ends their connections.
        if order.tls is not None:
            self._identity = order.tls
        if order.within_s is not None:
            self.drain(order.within_s)

    def drain(self, within_s: float) -> None:
        """Take nothing new and end within this time; a repeated call can only shorten it."""
        with self._lock:
            until = time.monotonic() + within_s
            is_first = not self._drain_begun.is_set()
            self._drain_until = until if is_first else min(until, self._drain_until)
            self._drain_begun.set()
        self._control.report_soon()
        if not is_first:
            return
        _log.info("Engine %s drains within %.1f s", self._configuration.engine, within_s)
        if self._port is not None:
            self._port.stop_listening()
        self._slots.drain()
        for session in self._roster.sessions():
            self._slots.flusher.start_soon(functools.partial(session.say_drain, within_s))

    def finish(self) -> bool:
        """Wait until nothing runs and every outcome has been sent; return whether that was so in time."""
        while not self._drain_begun.wait(LOOK_EVERY_S):
            self._look_at_parts()
        while self._slots.in_use and time.monotonic() < self._drain_until:
            time.sleep(_POLL_S)
        is_finished = not self._slots.in_use
        leave_until = min(self._drain_until, time.monotonic() + LEAVE_WITHIN_S)
        while len(self._roster) and time.monotonic() < leave_until:
            time.sleep(_POLL_S)
        return is_finished

    def close(self) -> None:
        """End every connection and thread; waits for handlers that run."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self.drain(0.0)
        for session in self._roster.sessions():
            try:
                session.answers.flush()
                session.say_goodbye()
            except ConnectionEnded as error:
                _log.debug("A peer has left before the engine: %s", error)
        self._payloads.budget.close()
        self._emitter.close()
        self._backlog.close()
        if self._port is not None:
            self._port.close()
        self._slots.close()
        self._control.close()
        self._payloads.close()
        if self._board is not None:
            self._board.close()
        if self._workshop is not None:
            self._workshop.work.close()
        if self._client is not None:
            self._client.close()
