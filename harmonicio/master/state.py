"""The master's decisions in one place: directory, leases, routing and placement joined.

    registrations, reports ──► directory ──► placement ──► desired engines per worker (with a generation)
                                   │
    lease requests ────────────────┴──────► routing ─────► leases

Rules:

- Placement knows the workers that are present (registered, reported, not lost). It is redone when that set, a worker's
  room or a stream changes; an engine that crashed is restarted where it was.
- After a start with known streams nothing is placed for ``settle_s``, so that workers of before can come back with the
  engines that they run; otherwise the first one to return would be given the engines of all.
- A worker's generation changes exactly when its desired engines do. Generations start at a number that the shell draws
  larger at each start, so that none of an earlier life of the master is met again.
- Streams that are ordered are never leased: their messages take the backlog.

Pure: no I/O, no clock, no locks. The shell calls under its lock and acts on the answers outside of it. ``now`` is
monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harmonicio.control.messages import (
    Desired,
    DesiredEngines,
    EngineExit,
    EngineView,
    LeaseRenewal,
    LeaseRequest,
    WorkerRegistration,
    WorkerReport,
    WorkerView,
)
from harmonicio.core.engine import Availability
from harmonicio.core.errors import InvalidInput, NotFound
from harmonicio.core.lease import Address
from harmonicio.core.names import check_name
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.directory import Directory, KnownEngine, KnownWorker
from harmonicio.master.image_pins import ImagePins
from harmonicio.master.leases import HeldLease, LeaseTable
from harmonicio.master.placement import PACKED, Host, Placement, check_policy, place
from harmonicio.master.routing import Candidate, choose

MAX_LEASES_PER_REQUEST = 1_000
#: When a source that got fewer leases than it asked for asks again: engines are reported about this often.
RETRY_AFTER_S = 1.0
SETTLE_S = 3.0


@dataclass(frozen=True, slots=True)
class Granted:
    """A new lease, with what its ticket and its holder need."""

    held: HeldLease
    worker: str
    address: Address
    socket: str = ""


@dataclass(frozen=True, slots=True)
class GrantDecision:
    granted: tuple[Granted, ...]
    route: str
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class ReportDecision:
    """Whether the worker is known, the engine exits that were not known before, and the engines that have handled
    messages since the report before."""

    is_known: bool
    exits: tuple[EngineExit, ...] = ()
    progressed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """A stream's engines: wanted, able to work now, and wanted but without a worker."""

    desired: int
    running: int
    unplaced: int


class MasterState:
    """Everything that the master knows and does not store, and the streams that it does."""

    def __init__(
        self,
        *,
        directory: Directory,
        leases: LeaseTable,
        streams: Iterable[StreamDeclaration] = (),
        placement: str = PACKED,
        first_generation: int = 1,
        settled_at: float = 0.0,
    ) -> None:
        self.directory = directory
        self.leases = leases
        self._streams = {declaration.name: declaration for declaration in streams}
        self._policy = check_policy(placement)
        self._generation = first_generation
        self._settled_at = settled_at
        self._is_settled = False
        self._placement = Placement({}, {})
        self._desired: dict[str, Desired] = {}
        self._pins = ImagePins()

    def __repr__(self) -> str:
        return (
            f"<MasterState {self.directory!r} {self.leases!r} streams={len(self._streams)} settled={self._is_settled}>"
        )

    @property
    def generation(self) -> int:
        """The latest generation of any worker: it grows whenever desired engines change."""
        return self._generation

    @property
    def is_settled(self) -> bool:
        """Whether the workers of before a restart have had time to come back."""
        return self._is_settled

    # ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def register(self, registration: WorkerRegistration, now: float) -> None:
        """A worker introduces itself.

        Raises:
            InvalidInput: a name or number cannot be used.
            Conflict: another worker has this name.
            Unavailable: there are too many workers.
        """
        if self.directory.register(registration, now):
            self._place(now)

    def report(self, worker: str, report: WorkerReport, now: float) -> ReportDecision:
        """A worker tells everything it knows.

        Raises:
            InvalidInput: the report names something that cannot be used; nothing has changed then.
        """
        heard = self.directory.report(worker, report, now)
        self._revoke(heard.unavailable)
        if (heard.is_known and self._pins.see(report.engines, self._version_of)) or heard.has_returned:
            self._place(now)
        return ReportDecision(heard.is_known, heard.exits, heard.progressed)

    def _version_of(self, stream: str) -> int | None:
        return self._streams[stream].version if stream in self._streams else None

    def leave(self, worker: str, now: float) -> None:
        """A worker stops on purpose: its engines are gone and are placed elsewhere.

        Raises:
            NotFound: there is no such worker.
        """
        self._check_known(worker)
        self._revoke(self.directory.leave(worker))
        self._place(now)

    def has_news(self, worker: str, generation: int) -> bool:
        """Whether it is decided what a worker shall run, and that is not of this generation.

        Raises:
            NotFound: the worker is not registered.
        """
        found = self.desired(worker)
        return found is not None and found.generation != generation

    def desired(self, worker: str) -> Desired | None:
        """Return what a worker shall run; ``None`` while that is not decided yet.

        Raises:
            NotFound: there is no such worker.
        """
        self._check_known(worker)
        return self._desired.get(worker)

    def _check_known(self, worker: str) -> None:
        if self.directory.worker(worker) is None:
            raise NotFound(f"There is no worker {worker!r}.", hint="Register it first.")

    def tick(self, now: float) -> tuple[str, ...]:
        """Let time pass: silent workers are lost, leases run out, and the master settles.

        Returns:
            The workers that were lost.
        """
        self.leases.expire(now)
        present = [name for name, worker in self.directory.workers() if worker.is_present]
        self._revoke(self.directory.expire(now))
        lost = tuple(name for name in present if not self._is_present(name))
        if lost or not self._is_settled or self._pins.prune(self._is_running):
            self._place(now)
        return lost

    def _is_running(self, engine: str) -> bool:
        known = self.directory.engine(engine)
        return known is not None and not known.has_ended

    def _is_present(self, name: str) -> bool:
        worker = self.directory.worker(name)
        return worker is not None and worker.is_present

    def _revoke(self, engines: Iterable[str]) -> None:
        for engine in engines:
            self.leases.revoke_engine(engine)

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def streams(self) -> Mapping[str, StreamDeclaration]:
        """Return the declared streams by name."""
        return dict(sorted(self._streams.items()))

    def stream(self, name: str) -> StreamDeclaration:
        """Return one stream's declaration.

        Raises:
            NotFound: it is not declared.
        """
        declaration = self._streams.get(name)
        if declaration is None:
            raise NotFound(
                f"There is no stream {name!r}.", hint="Declare it, for example with 'harmonicio stream apply'."
            )
        return declaration

    def put_stream(self, declaration: StreamDeclaration, now: float) -> None:
        """Take a declaration, new or in place of an older one."""
        self._streams[declaration.name] = declaration
        if declaration.ordered:
            self.leases.revoke_stream(declaration.name)
        self._place(now)

    def drop_stream(self, name: str, now: float) -> None:
        """Forget a stream: its leases end and its engines are not desired any more."""
        if self._streams.pop(name, None) is not None:
            self.leases.revoke_stream(name)
            self._place(now)

    def counts(self, stream: str) -> StreamCounts:
        """Return how many engines a stream wants, has and misses."""
        running = sum(1 for _, engine in self._engines_of(stream) if engine.state.can_be_leased)
        wanted = self.stream(stream).engines
        return StreamCounts(wanted, running, self._placement.unplaced.get(stream, 0) if self._is_settled else wanted)

    # ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def request_leases(self, request: LeaseRequest, now: float) -> GrantDecision:
        """Give a source leases on engines that it does not hold yet.

        Raises:
            InvalidInput: the source's name or the number cannot be used.
            NotFound: the stream is not declared.
            Unavailable: there are too many leases.
        """
        check_name("source", request.source)
        if not 0 <= request.count <= MAX_LEASES_PER_REQUEST:
            raise InvalidInput(
                f"{request.count} leases were asked for.", hint=f"Ask for 0 to {MAX_LEASES_PER_REQUEST}."
            )
        declaration = self.stream(request.stream)
        self.leases.expire(now)
        if request.held is not None:
            self.leases.end_unknown(request.source, request.stream, request.held)
        choice = choose(self._candidates(declaration, request.source), request.count)
        granted = tuple(self._grant(request, candidate, now) for candidate in choice.engines)
        return GrantDecision(granted, choice.route, 0.0 if len(granted) == request.count else RETRY_AFTER_S)

    def _candidates(self, declaration: StreamDeclaration, source: str) -> list[Candidate]:
        if declaration.ordered:
            return []
        return [
            Candidate(
                engine=name,
                worker=engine.worker,
                is_idle=engine.state is Availability.IDLE,
                leases=self.leases.count_on(name),
                is_held=self.leases.is_held(source, name),
            )
            for name, engine in self._engines_of(declaration.name)
            if self.directory.can_be_leased(name)
        ]

    def _grant(self, request: LeaseRequest, candidate: Candidate, now: float) -> Granted:
        engine = self.directory.engine(candidate.engine)
        assert engine is not None and engine.report.address is not None
        held = self.leases.grant(request.source, request.stream, candidate.engine, now)
        return Granted(held, engine.worker, engine.report.address, engine.report.socket)

    def renew(self, source: str, leases: Iterable[str], now: float) -> LeaseRenewal:
        return self.leases.renew(source, leases, now, self._is_gone)

    def _is_gone(self, engine: str) -> bool:
        known = self.directory.engine(engine)
        return known is None or not known.is_there

    def release(self, source: str, leases: Iterable[str]) -> None:
        self.leases.release(source, leases)

    # ── placement ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _place(self, now: float) -> None:
        if now < self._settled_at:
            return
        self._is_settled = True
        hosts = [self._host(name, worker) for name, worker in self.directory.workers() if worker.is_present]
        wanted = {name: declaration.engines for name, declaration in self._streams.items()}
        self._placement = place(hosts, wanted, self._policy)
        self._pins.prune(self._is_running)
        before, self._desired = self._desired, {}
        for worker, counts in self._placement.placed.items():
            self._desired[worker] = self._next_desired(before.get(worker), counts)

    def _host(self, name: str, worker: KnownWorker) -> Host:
        known = worker.registration
        streams = frozenset(each.name for each in self._streams.values() if each.kind in known.starts)
        return Host(name, known.max_engines, self._placement.placed.get(name), worker.at_work(), streams)

    def _next_desired(self, before: Desired | None, counts: Mapping[str, int]) -> Desired:
        wanted = ((self._streams[stream], count) for stream, count in counts.items())
        streams = tuple(DesiredEngines(each, count, self._pins.image_of(each)) for each, count in wanted)
        if before is not None and before.streams == streams:
            return before
        self._generation += 1
        return Desired(self._generation, streams)

    def _engines_of(self, stream: str) -> list[tuple[str, KnownEngine]]:
        return [(name, engine) for name, engine in self.directory.engines() if engine.report.stream == stream]

    # ── views ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def worker_views(self, now: float) -> tuple[WorkerView, ...]:
        return tuple(self._worker_view(name, worker, now) for name, worker in self.directory.workers())

    def _worker_view(self, name: str, worker: KnownWorker, now: float) -> WorkerView:
        is_used = any(
            engine.state is Availability.BUSY or engine.report.running or self.leases.count_on(engine_name)
            for engine_name, engine in worker.engines.items()
        )
        return WorkerView(
            worker=name,
            host=worker.registration.host,
            state=worker.state,
            max_engines=worker.registration.max_engines,
            engines=sum(1 for engine in worker.engines.values() if not engine.has_ended),
            busy=sum(1 for engine in worker.engines.values() if engine.state is Availability.BUSY),
            is_removable=not is_used,
            last_report_age_s=round(now - worker.heard_at, 3),
            load=worker.load,
            troubles=worker.troubles,
            starts=worker.registration.starts,
        )

    def engine_views(self, now: float) -> tuple[EngineView, ...]:
        return tuple(self._engine_view(name, engine, now) for name, engine in self.directory.engines())

    def engine_view(self, name: str, now: float) -> EngineView:
        """Return one engine.

        Raises:
            NotFound: no worker reports it.
        """
        engine = self.directory.engine(name)
        if engine is None:
            raise NotFound(f"There is no engine {name!r}.")
        return self._engine_view(name, engine, now)

    def _engine_view(self, name: str, engine: KnownEngine, now: float) -> EngineView:
        report = engine.report
        return EngineView(
            engine=name,
            stream=report.stream,
            worker=engine.worker,
            state=engine.state,
            state_since_s=round(now - engine.since, 3),
            leases=self.leases.count_on(name),
            handled=report.handled,
            failed=report.failed,
            handled_from_backlog=report.handled_from_backlog,
            received_bytes=report.received_bytes,
            address=report.address,
            pid=report.pid,
            running=report.running,
            image=report.image,
            stream_version=report.stream_version,
        )
