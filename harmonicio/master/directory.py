"""Who is there: workers and their engines, as registrations and reports tell.

    (unknown) ──register──► joining ──report──► present ──no report for lost_after_s──► lost ──► (forgotten)
                                                   ▲                                     │
                                                   └─────────────── report ──────────────┘

Rules:

- A name belongs to the worker that registered with it, for as long as that one is not lost.
- A report replaces the worker's previous one. A report that is older than the last one (network reordering, a repeat)
  changes nothing.
- The engines of a lost worker are shown as lost and cannot be leased. They may well be alive: the worker's next report
  brings them back as they are.
- An engine whose address cannot be used is not leased, and said once; all else in its worker's report counts.
- An engine that ended without an order is shown as lost for a while.
- An engine id belongs to the worker that reported it first, for as long as that worker is not lost.
- Where an engine has ended is remembered for a while: its log is there.
- Nothing here is stored. After a restart of the master, workers register again and report.

Pure: no I/O but the log, no clock. ``now`` is seconds of any clock that never goes backwards.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from harmonicio.control.messages import (
    EngineExit,
    EngineReport,
    HostLoad,
    StreamTrouble,
    WorkerRegistration,
    WorkerReport,
)
from harmonicio.core.engine import Availability, ExitReason
from harmonicio.core.errors import Conflict, InvalidInput, Unavailable
from harmonicio.core.lease import Address
from harmonicio.core.names import check_name
from harmonicio.core.printable import one_line

_log = logging.getLogger(__name__)

LOST_AFTER_S = 5.0
FORGET_AFTER_S = 24 * 3600.0
MAX_WORKERS = 1_000
MAX_ENGINES_PER_WORKER = 10_000
MAX_REMEMBERED_EXITS = 1_000
MAX_TROUBLES_PER_WORKER = 100
_MAX_HOST_LENGTH = 255
#: How long an engine that ended by itself is shown as lost, and how many of one worker.
ENDED_SHOWN_S = 60.0
MAX_ENDED_SHOWN = 20
_ENDED_BY_ITSELF = (ExitReason.CRASHED, ExitReason.TIMED_OUT, ExitReason.UNKNOWN)

#: An engine in one of these states does the work of its stream, or soon will.
AT_WORK = (Availability.STARTING, Availability.IDLE, Availability.BUSY)


@dataclass(slots=True)
class KnownEngine:
    """One engine as last reported; ``since`` is when it entered its state, ``has_ended``: its process is gone."""

    worker: str
    report: EngineReport
    state: Availability
    since: float
    has_ended: bool = False

    @property
    def is_there(self) -> bool:
        return self.state is not Availability.LOST


@dataclass(slots=True)
class KnownWorker:
    """One worker as last heard of."""

    registration: WorkerRegistration
    heard_at: float
    sequence: int = -1
    has_reported: bool = False
    is_lost: bool = False
    engines: dict[str, KnownEngine] = field(default_factory=dict)
    load: HostLoad | None = None
    troubles: tuple[StreamTrouble, ...] = ()
    unreachable: frozenset[str] = frozenset()

    @property
    def is_present(self) -> bool:
        return self.has_reported and not self.is_lost

    @property
    def state(self) -> str:
        return "lost" if self.is_lost else "present" if self.has_reported else "joining"

    def at_work(self) -> Counter[str]:
        """Return how many engines of each stream work here or are starting."""
        return Counter(engine.report.stream for engine in self.engines.values() if engine.state in AT_WORK)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a report changed.

    Attributes:
        is_known: False when the worker has to register first; then nothing else changed.
        unavailable: Engines that could be leased before and cannot now.
        exits: Engine exits that were not known before.
        has_returned: The worker was joining or lost until now.
        progressed: Engines that have handled messages since the report before, or whose handlers have returned.
    """

    is_known: bool
    unavailable: tuple[str, ...] = ()
    exits: tuple[EngineExit, ...] = ()
    has_returned: bool = False
    progressed: tuple[str, ...] = ()


class Directory:
    """All workers and engines that the master knows."""

    def __init__(self, *, lost_after_s: float = LOST_AFTER_S, forget_after_s: float = FORGET_AFTER_S) -> None:
        self._lost_after_s = lost_after_s
        self._forget_after_s = forget_after_s
        self._workers: dict[str, KnownWorker] = {}
        self._engines: dict[str, KnownEngine] = {}
        self._exits: deque[EngineExit] = deque(maxlen=MAX_REMEMBERED_EXITS)
        self._ended_on: dict[str, str] = {}

    def __repr__(self) -> str:
        states = Counter(worker.state for worker in self._workers.values())
        return f"<Directory workers={dict(states)} engines={len(self._engines)}>"

    def register(self, registration: WorkerRegistration, now: float) -> bool:
        """Enter a worker, or enter it anew: its next report may start counting from 0 again.

        Returns:
            Whether what may be placed on the worker has changed.

        Raises:
            InvalidInput: a name or the number of engines cannot be used.
            Conflict: another worker has this name.
            Unavailable: there are too many workers.
        """
        check_name("worker", registration.worker)
        if not 0 <= registration.max_engines <= MAX_ENGINES_PER_WORKER:
            raise InvalidInput(
                f"Worker {registration.worker!r} has max_engines = {registration.max_engines}.",
                hint=f"Use 0 to {MAX_ENGINES_PER_WORKER}.",
            )
        known = self._workers.get(registration.worker)
        if known is not None and known.registration.identity != registration.identity:
            if not known.is_lost:
                raise Conflict(
                    f"A worker on host {known.registration.host!r} has the name {registration.worker!r}.",
                    hint="Give this one a name of its own, with --name or worker.name.",
                )
            self.leave(registration.worker)
            known = None
        if known is None:
            if len(self._workers) >= MAX_WORKERS:
                raise Unavailable(f"The master knows {MAX_WORKERS} workers already.", retry_after_s=60.0)
            self._workers[registration.worker] = KnownWorker(registration, heard_at=now)
            return False
        has_other_room = known.registration.max_engines != registration.max_engines
        known.registration, known.heard_at, known.sequence = registration, now, -1
        return has_other_room and not known.is_lost

    def report(self, worker: str, report: WorkerReport, now: float) -> Heard:
        """Take in everything that a controller knows.

        Raises:
            InvalidInput: a name or the number of engines cannot be used; nothing has changed then.
        """
        known = self._workers.get(worker)
        if known is None:
            return Heard(is_known=False)
        _check(report)
        known.heard_at = now
        if report.sequence <= known.sequence:
            return Heard(is_known=True)
        has_returned = not known.is_present
        known.sequence, known.has_reported, known.is_lost = report.sequence, True, False
        report = _with_usable_addresses(worker, known, report)
        known.load, known.troubles = report.load, report.troubles[:MAX_TROUBLES_PER_WORKER]
        progressed = tuple(
            each.engine for each in report.engines if _has_progressed(known.engines.get(each.engine), each)
        )
        unavailable = self._replace_engines(worker, known, report, now)
        return Heard(True, unavailable, self._remember(worker, report.exits), has_returned, progressed)

    def _replace_engines(self, worker: str, known: KnownWorker, report: WorkerReport, now: float) -> tuple[str, ...]:
        before = {name for name, engine in known.engines.items() if engine.state.can_be_leased}
        for name in known.engines:
            if self._engines.get(name) is known.engines[name]:
                del self._engines[name]
        known.engines = {each.report.engine: each for each in _ended(known, report.exits, now)}
        for name, engine in known.engines.items():
            self._engines.setdefault(name, engine)
        for item in report.engines:
            owner = self._engines.get(item.engine)
            if owner is not None and owner.is_there:
                continue
            engine = KnownEngine(worker, item, item.state, now - max(0.0, item.state_since_s))
            known.engines[item.engine] = self._engines[item.engine] = engine
        return tuple(name for name in before if not self.can_be_leased(name))

    def _remember(self, worker: str, exits: tuple[EngineExit, ...]) -> tuple[EngineExit, ...]:
        """Return the exits that are news, and not of engines that another worker has."""
        known = {item.engine for item in self._exits}
        fresh = tuple(
            {item.engine: item for item in exits if item.engine not in known and self._may_end(worker, item)}.values()
        )
        self._exits.extend(fresh)
        self._ended_on |= {item.engine: worker for item in fresh}
        while len(self._ended_on) > MAX_REMEMBERED_EXITS:
            del self._ended_on[next(iter(self._ended_on))]
        return fresh

    def _may_end(self, worker: str, ended: EngineExit) -> bool:
        owner = self._engines.get(ended.engine)
        return owner is None or owner.worker == worker or not owner.is_there

    def expire(self, now: float) -> tuple[str, ...]:
        """Give up workers that have been silent for too long; return the engines that cannot be leased any more."""
        gone: list[str] = []
        for name, worker in list(self._workers.items()):
            silence_s = now - worker.heard_at
            if not worker.is_lost and silence_s > self._lost_after_s:
                worker.is_lost = True
                gone += self._lose_engines(worker, now)
            elif worker.is_lost and silence_s > self._forget_after_s:
                self.leave(name)
        return tuple(gone)

    def _lose_engines(self, worker: KnownWorker, now: float) -> list[str]:
        gone = [name for name, engine in worker.engines.items() if engine.state.can_be_leased]
        for engine in worker.engines.values():
            engine.state, engine.since = Availability.LOST, now
        return gone

    def leave(self, worker: str) -> tuple[str, ...]:
        """Forget a worker, for example one that stops on purpose; return the engines that it had."""
        known = self._workers.pop(worker, None)
        if known is None:
            return ()
        for name, engine in known.engines.items():
            if self._engines.get(name) is engine:
                del self._engines[name]
        return tuple(known.engines)

    def worker(self, name: str) -> KnownWorker | None:
        return self._workers.get(name)

    def engine(self, name: str) -> KnownEngine | None:
        return self._engines.get(name)

    def image_of(self, engine: str) -> str:
        """Return the digest of the image that an engine runs, or ran until not long ago; empty when none is known."""
        known = self._engines.get(engine)
        return "" if known is None else known.report.image

    def worker_of(self, engine: str) -> str | None:
        """Return the worker that has an engine, or had it until it ended not long ago."""
        known = self._engines.get(engine)
        return known.worker if known is not None else self._ended_on.get(engine)

    def workers(self) -> Iterator[tuple[str, KnownWorker]]:
        """Return all workers, by name."""
        return iter(sorted(self._workers.items()))

    def engines(self) -> Iterator[tuple[str, KnownEngine]]:
        """Return all engines, by name."""
        return iter(sorted(self._engines.items()))

    def exits(self) -> tuple[EngineExit, ...]:
        """Return the latest engine exits, oldest first."""
        return tuple(self._exits)

    def can_be_leased(self, engine: str) -> bool:
        known = self._engines.get(engine)
        return known is not None and known.state.can_be_leased and known.report.address is not None


def _ended(known: KnownWorker, exits: tuple[EngineExit, ...], now: float) -> list[KnownEngine]:
    """Return the engines of a worker that ended by themselves not long ago."""
    names = {item.engine for item in exits if item.reason in _ENDED_BY_ITSELF}
    shown = [each for each in known.engines.values() if each.has_ended and now - each.since < ENDED_SHOWN_S]
    for name, engine in known.engines.items():
        if name in names and not engine.has_ended:
            report = replace(engine.report, address=None, running=())
            shown.append(KnownEngine(engine.worker, report, Availability.LOST, now, has_ended=True))
    return shown[-MAX_ENDED_SHOWN:]


def _has_progressed(before: KnownEngine | None, report: EngineReport) -> bool:
    if before is None:
        return False
    is_newly_kept = bool(_being_kept(report) - _being_kept(before.report))
    return report.handled > before.report.handled or is_newly_kept or _is_called_anew(before.report, report)


def _being_kept(report: EngineReport) -> set[str]:
    """Return the messages whose handlers have returned: keeping one has a time of its own."""
    return {each.message for each in report.running if each.has_returned}


def _is_called_anew(before: EngineReport, report: EngineReport) -> bool:
    """Whether a message has been in its phase for less time than before: a plugin has called the handler again."""
    ran_s = {(each.message, each.has_returned): each.running_s for each in before.running}
    return any(each.running_s < ran_s.get((each.message, each.has_returned), 0.0) for each in report.running)


def _check(report: WorkerReport) -> None:
    if len(report.engines) > MAX_ENGINES_PER_WORKER:
        raise InvalidInput(
            f"A report names {len(report.engines)} engines.", hint=f"Use at most {MAX_ENGINES_PER_WORKER}."
        )
    for engine in report.engines:
        check_name("engine", engine.engine)
        check_name("stream", engine.stream)


def _with_usable_addresses(worker: str, known: KnownWorker, report: WorkerReport) -> WorkerReport:
    """Return the report without addresses that nobody can dial, and say whose they are unless that was said before."""
    unreachable = {
        each.engine: each.address for each in report.engines if each.address and not _is_usable(each.address)
    }
    for engine in unreachable.keys() - known.unreachable:
        shown = one_line(repr(unreachable[engine]))[:200]
        _log.warning("Engine %s of worker %s cannot be leased: its address is %s.", engine, worker, shown)
    known.unreachable = frozenset(unreachable)
    if not unreachable:
        return report
    engines = (replace(each, address=None) if each.engine in unreachable else each for each in report.engines)
    return replace(report, engines=tuple(engines))


def _is_usable(address: Address) -> bool:
    is_host = 0 < len(address.host) <= _MAX_HOST_LENGTH and address.host.isprintable() and " " not in address.host
    return is_host and 1 <= address.port <= 65_535
