"""The master behind its routes: the pure state under one lock, with the store, the tokens and the backlog beside it.

    routes ──► Master ──┬── state     decides, under the lock
                        ├── store     keeps, before the state learns of it
                        ├── office    signs, outside the lock
                        ├── streams   declares, scales and deletes them
                        ├── logs      brings parts of engines' logs from workers to readers
                        └── backlog

Every method may be called from any thread. Nothing here listens on a socket or starts a thread: that is
:class:`~harmonicio.master.service.MasterService`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import harmonicio
from harmonicio.control.messages import (
    BacklogAccess,
    BacklogFigures,
    Desired,
    EngineView,
    LeaseGrant,
    LeaseList,
    LeaseRenewal,
    LeaseRequest,
    OutcomeView,
    ReportAnswer,
    Status,
    StreamView,
    WorkerRegistration,
    WorkerReport,
    WorkerView,
    WorkerWelcome,
)
from harmonicio.core.clock import Clock
from harmonicio.core.errors import NotFound, Unavailable
from harmonicio.core.lease import Address, Claims
from harmonicio.core.names import check_message_id
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.audit_log import AuditLog
from harmonicio.master.backlog.backlog import Backlog
from harmonicio.master.held_requests import HeldRequests
from harmonicio.master.intake import Intake
from harmonicio.master.log_desk import LogDesk
from harmonicio.master.state import MasterState
from harmonicio.master.store import MasterStore
from harmonicio.master.stream_desk import StreamDesk
from harmonicio.master.ticket_office import INTAKE_TERM_S, TicketOffice
from harmonicio.master.tokens import Identity, TokenBook

_log = logging.getLogger(__name__)

REPORT_INTERVAL_S = 1.0
MAX_WAIT_S = 30.0
#: Requests for desired engines that may be held at the same time; the web server has more threads for all others.
MAX_HELD_REQUESTS = 64


class Master:
    """Everything that the routes and the data port ask for.

    Attributes:
        tokens: The bearer tokens.
        office: Signs and checks tickets.
        backlog: Messages that wait here.
        audit: Who changed what, and when.
        logs: Where logs of engines are asked for.
        streams: Where streams are changed.

    Args:
        check_plugins: Looks at the plugins of a declaration; raises ConfigurationError.
    """

    def __init__(
        self,
        *,
        state: MasterState,
        store: MasterStore,
        tokens: TokenBook,
        office: TicketOffice,
        backlog: Backlog,
        clock: Clock,
        audit: AuditLog,
        check_plugins: Callable[[StreamDeclaration], None] = lambda _: None,
    ) -> None:
        self.tokens = tokens
        self.office = office
        self.backlog = backlog
        self.audit = audit
        self._intake: Intake | None = None
        self._data_address = Address("127.0.0.1", 0)
        self._find_gone: Callable[[], tuple[str, ...]] = lambda: ()
        self._state = state
        self._store = store
        self._clock = clock
        self._changed = threading.Condition()
        self._held = HeldRequests(self._changed, MAX_HELD_REQUESTS)
        self.logs = LogDesk(state, self._changed)
        self.streams = StreamDesk(state, store, backlog, self._deciding, self._end_connectors, check_plugins)
        self._raising = threading.Lock()
        self._started_at = clock.monotonic()
        self._lease_requests = 0
        self._control_received_bytes = 0
        backlog.set_image_finder(self._image_of)

    def __repr__(self) -> str:
        return f"<Master {self._state!r} {self._held!r}>"

    @contextmanager
    def _deciding(self) -> Iterator[float]:
        """Hold the lock for one decision; whoever waits for desired engines wakes when they have changed."""
        with self._changed:
            before = self._state.generation
            yield self._clock.monotonic()
            if self._state.generation != before:
                self._changed.notify_all()

    def attach(self, intake: Intake, address: Address, find_gone: Callable[[], tuple[str, ...]] = lambda: ()) -> None:
        """The intake listens, and can be reached at this address; ``find_gone`` names parts that have ended."""
        self._intake, self._data_address, self._find_gone = intake, address, find_gone

    @property
    def is_ready(self) -> bool:
        return not self._held.is_ended

    def check_parts(self) -> None:
        """Raise Unavailable when a part of this master is gone; says which."""
        if gone := self._find_gone():
            raise Unavailable(f"Of the master the {' and the '.join(gone)} is gone.", hint="Start it again.")

    def identify(self, bearer: str) -> Identity:
        """Return who presents this bearer token.

        Raises:
            NotAllowed: nobody known here.
        """
        return self.office.identify_engine(bearer) or self.tokens.identify(bearer)

    def count_request(self, body_bytes: int) -> None:
        """Count the body of a control request."""
        with self._changed:
            self._control_received_bytes += body_bytes

    def tick(self) -> None:
        """Let time pass."""
        with self._deciding() as now:
            lost = self._state.tick(now)
        for worker in lost:
            _log.warning("Worker %s is lost: it has not reported for too long.", worker)
        self.backlog.tick()

    def stop_waiting(self) -> None:
        """Answer all held requests now, and hold none any more: the service ends."""
        self._held.end()
        self.logs.stop_waiting()

    # ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def register(self, registration: WorkerRegistration) -> WorkerWelcome:
        with self._deciding() as now:
            self._state.register(registration, now)
        _log.info("Worker %s has registered with room for %d engines.", registration.worker, registration.max_engines)
        return WorkerWelcome(REPORT_INTERVAL_S, self.office.worker_key(registration.worker), self._data_address)

    def report(self, worker: str, report: WorkerReport) -> ReportAnswer:
        with self._deciding() as now:
            decision = self._state.report(worker, report, now)
        self.backlog.engines_progressed(decision.progressed)
        for ended in decision.exits:
            self.backlog.engine_exited(ended)
            if self._intake is not None:
                self._intake.end_engine(ended.engine)
        return ReportAnswer(decision.is_known, self.office.epoch)

    def leave(self, worker: str) -> None:
        with self._deciding() as now:
            self._state.leave(worker, now)
            self._changed.notify_all()  # The request of its own that is held has nothing to wait for any more.
        _log.info("Worker %s has left.", worker)

    def desired(self, worker: str, generation: int, wait_s: float) -> Desired:
        """Return what a worker shall do, as soon as that is not of ``generation`` or after ``wait_s`` seconds.

        Raises:
            NotFound: the worker is not registered.
            Unavailable: it is not decided yet, or too many requests are held.
        """
        with self._changed:
            self._held.wait_for(lambda: self._has_news(worker, generation), min(wait_s, MAX_WAIT_S))
            found = self._state.desired(worker)
            if found is not None:
                return replace(found, logs=self.logs.take(worker))
        raise Unavailable(
            f"What worker {worker!r} shall run is not decided yet.",
            hint="It is once the worker has reported and the master has settled after its start.",
            retry_after_s=REPORT_INTERVAL_S,
        )

    def _has_news(self, worker: str, generation: int) -> bool:
        return self._state.has_news(worker, generation) or self.logs.has_news(worker)

    @property
    def held_requests(self) -> int:  # by workers that wait for a change
        return self._held.count

    def worker_views(self) -> tuple[WorkerView, ...]:
        with self._deciding() as now:
            return self._state.worker_views(now)

    def worker_view(self, worker: str) -> WorkerView:
        for view in self.worker_views():
            if view.worker == worker:
                return view
        raise NotFound(f"There is no worker {worker!r}.")

    def engine_views(self) -> tuple[EngineView, ...]:
        with self._deciding() as now:
            return self._state.engine_views(now)

    def engine_view(self, engine: str) -> EngineView:
        with self._deciding() as now:
            return self._state.engine_view(engine, now)

    def _image_of(self, engine: str) -> str:
        with self._changed:
            return self._state.directory.image_of(engine)

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _end_connectors(self, is_ended: Callable[[Claims], bool]) -> None:
        if self._intake is not None:
            self._intake.end_connectors(is_ended)

    def stream_view(self, stream: str) -> StreamView:
        with self._changed:
            declaration, counts = self._state.stream(stream), self._state.counts(stream)
        return StreamView(declaration, counts.desired, counts.running, counts.unplaced, self.backlog.figures(stream))

    def stream_views(self) -> tuple[StreamView, ...]:
        with self._changed:
            known = [(declaration, self._state.counts(name)) for name, declaration in self._state.streams().items()]
        return tuple(
            StreamView(each, counts.desired, counts.running, counts.unplaced, self.backlog.figures(each.name))
            for each, counts in known
        )

    def backlog_figures(self) -> tuple[BacklogFigures, ...]:
        """Return each declared stream's backlog; then those of others that have messages, and must be declared again.

        A deletion that could not be written to the end leaves such messages, or a database of streams that is lost.
        """
        with self._changed:
            declared = list(self._state.streams())
        return tuple(self.backlog.figures(name) for name in dict.fromkeys([*declared, *self.backlog.streams()]))

    def outcome(self, stream: str, message: str) -> OutcomeView:
        """Return what became of a message that took the backlog.

        Raises:
            NotFound: the stream is not declared, or nothing is known of the message (any more).
        """
        self.streams.declared(stream)
        found = self.backlog.upkeep.outcome(stream, check_message_id(message))
        if found is None:
            raise NotFound(
                f"Nothing is known of message {message!r} of stream {stream!r}.",
                hint="It went straight to an engine, it never arrived, or its outcome has expired.",
            )
        return found

    # ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def request_leases(self, request: LeaseRequest, token: str = "") -> LeaseGrant:
        """Give a source leases, and access to the backlog.

        Args:
            token: The mark of the bearer token with which it asks; the access ends with that.

        Raises:
            InvalidInput, NotFound, Unavailable: as :meth:`MasterState.request_leases` says.
        """
        with self._deciding() as now:
            self._lease_requests += 1
            decision = self._state.request_leases(request, now)
            term_s, declaration = self._state.leases.term_s, self._state.stream(request.stream)
        for granted in decision.granted:
            held = granted.held
            _log.info("Lease %s: source %s to engine %s at %s.", held.lease, held.source, held.engine, granted.address)
        return LeaseGrant(
            leases=tuple(self.office.lease(granted, term_s) for granted in decision.granted),
            backlog=BacklogAccess(
                self._data_address, self.office.intake_ticket(request.stream, request.source, token), INTAKE_TERM_S
            ),
            route=decision.route,
            retry_after_s=decision.retry_after_s,
            timeout_s=declaration.timeout_s,
            is_ordered=declaration.ordered,
            window_s=declaration.prefetch_s * declaration.concurrency,
        )

    def renew(self, held: LeaseList) -> LeaseRenewal:
        with self._deciding() as now:
            return self._state.renew(held.source, held.leases, now)

    def release(self, held: LeaseList) -> None:
        with self._deciding():
            self._state.release(held.source, held.leases)

    def revoke_leases(self) -> None:
        """End every lease and refuse every ticket made so far: the epoch goes up."""
        with self._raising:
            epoch = self._store.raise_epoch()
            self.office.epoch = epoch
            with self._deciding():
                self._state.leases.raise_epoch(epoch)
        self._end_connectors(self.office.is_revoked)

    def revoke_token(self, name: str) -> None:
        """Forget a bearer token; what its sources have open at the data port ends.

        Raises:
            NotFound: there is no such token.
            Conflict: it is the last administrator's token.
        """
        self.tokens.revoke(name)
        self._end_connectors(self.office.is_revoked)

    # ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────────

    def status(self) -> Status:
        with self._deciding() as now:
            workers, engines = self._state.worker_views(now), self._state.engine_views(now)
        return Status(
            version=harmonicio.__version__,
            epoch=self.office.epoch,
            uptime_s=round(now - self._started_at, 3),
            lease_requests=self._lease_requests,
            data_received_bytes=self._intake.received_bytes if self._intake else 0,
            control_received_bytes=self._control_received_bytes,
            workers=workers,
            engines=engines,
            streams=self.stream_views(),
            recovered=self.backlog.recovered,
        )
