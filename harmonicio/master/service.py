"""The master as a running service: it owns every thread, socket and file of this role, and ends them.

    MasterService ──┬── data folder     locked: one master at a time
                    ├── store           streams, tokens, ticket key
                    ├── backlog         messages
                    ├── Master          decides
                    ├── data port       messages in and out          (thread pool of its own)
                    ├── web server      the control plane            (all held requests + 64 threads)
                    └── ticker          lets time pass               (one thread)

What is opened is closed in the opposite order, also when opening the next part fails.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from harmonicio.core.clock import Clock, SystemClock
from harmonicio.core.errors import ConfigurationError, NotFound, Unavailable
from harmonicio.core.lease import LEASE_TERM_S, Address
from harmonicio.core.message import Outcome
from harmonicio.core.roles import Role
from harmonicio.master.app import create_app
from harmonicio.master.audit_log import AuditLog
from harmonicio.master.backlog.backlog import Backlog
from harmonicio.master.backlog.base import BacklogStore, StoreLimits
from harmonicio.master.backlog.budget import LedgerLimits
from harmonicio.master.backlog.stores import create_store
from harmonicio.master.bridge import Bridge, find_bridge
from harmonicio.master.connector_session import CREDIT_NEEDS_BYTES
from harmonicio.master.directory import LOST_AFTER_S, Directory
from harmonicio.master.extensions import check_plugins, extension_endpoints, find_outcome, open_extensions
from harmonicio.master.folder import DataFolder
from harmonicio.master.http_server import HttpServer
from harmonicio.master.intake import Intake
from harmonicio.master.leases import LeaseTable
from harmonicio.master.log_desk import MAX_HELD_LOGS
from harmonicio.master.master import MAX_HELD_REQUESTS, Master
from harmonicio.master.placement import PACKED
from harmonicio.master.routes import all_endpoints
from harmonicio.master.state import SETTLE_S, MasterState
from harmonicio.master.store import MasterStore
from harmonicio.master.ticket_office import TicketOffice
from harmonicio.master.tokens import TokenBook
from harmonicio.transport.credentials import NO_CREDENTIALS, TlsCredentials

_log = logging.getLogger(__name__)

#: Beside the held requests, so many are served at the same time; commits of an extension may hold up to half of them.
FREE_THREADS = 64
TICK_S = 0.25
DRAIN_POLL_S = 0.02
#: Credit is given while ``CREDIT_NEEDS_BYTES`` are free: with less than this in all, hardly anybody would get any.
MIN_BACKLOG_BYTES = 2 * CREDIT_NEEDS_BYTES


@dataclass(frozen=True, slots=True)
class MasterOptions:
    """How to run a master.

    Attributes:
        data_folder: Everything that survives a restart; used by one master at a time.
        host: Address that is bound, by the web server and the data port.
        port, data_port: 0 takes a free one.
        bridge_host: This host's address on a bridge, on which containers reach both ports; empty: on none.
        is_insecure: Bind beyond loopback without TLS all the same.
        lost_after_s: A worker that has not reported for so long is lost.
        lease_term_s: How long a lease lasts without renewal.
        settle_s: After a restart with known streams: how long workers may take to come back before engines are placed.
        placement: ``packed`` or ``spread``.
        tls: With a certificate, the REST API and the data port speak TLS.
    """

    data_folder: Path
    host: str = "127.0.0.1"
    port: int = 8710
    data_port: int = 8711
    bridge_host: str = ""
    is_insecure: bool = False
    lost_after_s: float = LOST_AFTER_S
    lease_term_s: float = LEASE_TERM_S
    settle_s: float = SETTLE_S
    placement: str = PACKED
    tls: TlsCredentials = NO_CREDENTIALS


@dataclass(frozen=True, slots=True)
class BacklogOptions:
    """What the backlog may use.

    Attributes:
        store: Name of the store.
        max_disk_bytes: Payload bytes that may wait.
        hot_cache_bytes: Payload bytes kept in memory, so that they need not be read back.
        dead_letter_max_bytes: Payload bytes of dead letters.

    Raises:
        ConfigurationError: the backlog would be too small to take messages.
    """

    store: str = "sqlite"
    max_disk_bytes: int = 100 * 1024**3
    hot_cache_bytes: int = 256 * 1024**2
    dead_letter_max_bytes: int = 10 * 1024**3

    def __post_init__(self) -> None:
        if self.max_disk_bytes < MIN_BACKLOG_BYTES:
            raise ConfigurationError(
                f"A backlog of {self.max_disk_bytes} bytes is too small to take messages.",
                hint=f"Set master.backlog_max_disk_bytes to at least {MIN_BACKLOG_BYTES} bytes.",
            )


class MasterService:
    """A running master. Use it as a context manager, or :meth:`start` and :meth:`close` it.

    Args:
        options: How to run it.
        backlog: What its backlog may use.
        clock: The clocks of this host, or a test's.

    Raises:
        ConfigurationError: the options contradict each other, or would expose the master.
        Conflict: another master uses the data folder.
        StorageError: the data folder cannot be used.
    """

    def __init__(
        self,
        options: MasterOptions,
        backlog: BacklogOptions | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        options.tls.check_bind("The master", options.host, is_insecure=options.is_insecure)
        self.options = options
        self._bridge = _find_bridge(options)
        self._clock = clock or SystemClock()
        self._http: HttpServer | None = None
        with ExitStack() as parts:
            self._folder = parts.enter_context(closing(DataFolder(options.data_folder)))
            self._messages = _create_store(self._folder.backlog, backlog or BacklogOptions())
            store = parts.enter_context(closing(MasterStore(self._folder.database, self._messages.make_room)))
            self._extensions = open_extensions(options.data_folder)
            for extension in self._extensions.values():
                parts.callback(extension.close)
            waiting = parts.enter_context(closing(_open_backlog(self._messages, backlog or BacklogOptions())))
            self.master = self._new_master(store, waiting)
            waiting.set_outcome_finder(self._find_outcome)
            self._intake = parts.enter_context(closing(self._new_intake(waiting)))
            self._running: dict[str, _Part] = {"backlog": waiting}
            self._parts = parts.pop_all()

    def __repr__(self) -> str:
        return f"<MasterService {self._http or 'not started'} {self.master!r}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _new_master(self, store: MasterStore, backlog: Backlog) -> Master:
        streams, now = store.streams(), self._clock.monotonic()
        for declaration in streams:
            backlog.declare(declaration)
        backlog.tell_undeclared()
        tokens = TokenBook(store, self._clock)
        tokens.make_first(self._folder)
        state = MasterState(
            directory=Directory(lost_after_s=self.options.lost_after_s),
            leases=LeaseTable(id_prefix=secrets.token_hex(6), epoch=store.epoch, term_s=self.options.lease_term_s),
            streams=streams,
            placement=self.options.placement,
            first_generation=int(self._clock.wall() * 1000),
            settled_at=now + self.options.settle_s if streams else now,
        )
        office = TicketOffice(store.ticket_key, epoch=store.epoch, clock=self._clock, is_token_known=tokens.is_known)
        return Master(
            state=state,
            store=store,
            tokens=tokens,
            office=office,
            backlog=backlog,
            clock=self._clock,
            audit=AuditLog(self._folder.audit, self._clock),
            check_plugins=partial(check_plugins, self._extensions),
        )

    def _find_outcome(self, stream: str, message_id: str, size_bytes: int) -> Outcome | None:
        try:
            declaration = self.master.streams.declared(stream)
        except NotFound:
            return None
        return find_outcome(self._extensions, declaration, message_id, size_bytes)

    def _new_intake(self, backlog: Backlog) -> Intake:
        office = self.master.office
        return Intake(
            self.options.host,
            self.options.data_port,
            backlog,
            verify_intake=office.verify_intake_ticket,
            verify_engine=office.verify_engine_ticket,
            find_stream=self.master.streams.declared,
            bridge=self._bridge,
            tls=self.options.tls,
        )

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Listen. When that fails, everything is closed again.

        Raises:
            Unavailable: an address cannot be listened on.
        """
        try:
            self._listen()
        except BaseException:
            self.close()
            raise
        _log.info("The master listens on %s, and on %s for messages.", self.url, self.data_address)

    def _listen(self) -> None:
        self._intake.start()
        self.master.attach(self._intake, self.data_address, lambda: self.gone_parts)
        ticker = self._parts.enter_context(closing(_Ticker(self.master.tick)))
        app = create_app(
            self.master, [*all_endpoints(), *extension_endpoints(self._extensions, self._messages.make_room)]
        )
        address = Address(self.options.host, self.options.port)
        threads, tls = MAX_HELD_REQUESTS + MAX_HELD_LOGS + FREE_THREADS, self.options.tls
        self._http = HttpServer(address, app, threads=threads, tls=tls)
        self._parts.callback(self._http.close)
        self._running |= {"data port": self._intake, "ticker": ticker, "web server": self._http}
        if self._bridge is not None:
            at_bridge = Address(self._bridge.host, self._http.address.port)
            inner = HttpServer(at_bridge, app, threads=FREE_THREADS, device=self._bridge.device, tls=tls)
            self._parts.callback(inner.close)
            self._running["web server for containers"] = inner
        self._parts.callback(self.master.stop_waiting)

    def drain(self, within_s: float, hurry: threading.Event | None = None) -> bool:
        """Take and give out no messages more, and wait until those under way are answered; :meth:`close` follows.

        Args:
            hurry: When it is set, nothing is waited for any more.

        Returns:
            Whether engines have answered everything that they had of the backlog, and all of it is written.
        """
        deadline = time.monotonic() + within_s
        self._intake.drain(within_s)
        while self._is_undone and time.monotonic() < deadline and not (hurry and hurry.is_set()):
            time.sleep(DRAIN_POLL_S)
        return not self._is_undone

    @property
    def _is_undone(self) -> bool:
        return self._intake.has_unanswered or self.master.backlog.has_unwritten

    def close(self) -> None:
        """Answer what is being asked, end every thread, socket and file. May be called more than once."""
        self._parts.close()

    # ── what others want to know ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def gone_parts(self) -> tuple[str, ...]:
        """Parts that have ended although the service has not: without them it only looks well."""
        return tuple(name for name, part in list(self._running.items()) if not part.is_intact)

    @property
    def url(self) -> str:
        """Where the control plane is.

        Raises:
            Unavailable: the service has not been started.
        """
        if self._http is None:
            raise Unavailable("The master has not been started.")
        return self._http.url

    @property
    def data_address(self) -> Address:
        """Where others reach the data port: the address it listens on, or this host's name when that is all of them.

        Callers of the REST API are told it at the host at which they reach that.
        """
        bound = self._intake.address
        return replace(bound, host=socket.gethostname()) if bound.is_wildcard else bound

    def token_file(self, role: Role) -> Path:
        """Return the file in which the first token of a role was written."""
        return self._folder.token_file(role)


def _create_store(folder: Path, options: BacklogOptions) -> BacklogStore:
    return create_store(options.store, folder, StoreLimits(hot_cache_bytes=options.hot_cache_bytes))


def _open_backlog(store: BacklogStore, options: BacklogOptions) -> Backlog:
    return Backlog(
        store, LedgerLimits(max_bytes=options.max_disk_bytes, dead_letter_bytes=options.dead_letter_max_bytes)
    )


class _Part(Protocol):
    """What must run for as long as the service does."""

    @property
    def is_intact(self) -> bool: ...


class _Ticker:
    """Calls ``tick`` every ``TICK_S`` seconds in a thread of its own, until it is closed."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="master-ticker", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<_Ticker {'ended' if self._is_ending.is_set() else 'running'}>"

    @property
    def is_intact(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_ending.wait(TICK_S):
            try:
                self._tick()
            except Exception:  # noqa: BLE001  without ticks no lease or reservation ends any more; it is logged
                _log.exception("A tick of the master failed; the next one follows")

    def close(self) -> None:
        self._is_ending.set()
        self._thread.join()


def _find_bridge(options: MasterOptions) -> Bridge | None:
    """Return the bridge to listen on, if any; one that other hosts are on, too, is beyond this machine."""
    if not options.bridge_host:
        return None
    bridge = find_bridge(options.bridge_host)
    if not bridge.is_inner:
        who = f"On {bridge.device}, which is no bridge of containers alone, the master"
        options.tls.check_bind(who, bridge.host, is_insecure=options.is_insecure)
    return bridge
