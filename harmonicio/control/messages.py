"""The records that cross the control plane, as plain frozen dataclasses.

The master validates the same classes with pydantic; everybody else uses :mod:`harmonicio.control.json_codec`. Unknown
fields are ignored on reading, so that parts of neighbouring versions understand each other. What proves a right (a key,
a ticket, a secret) is not in a record's repr, which may come into a log.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from harmonicio.control.log_messages import LogWish
from harmonicio.core.engine import Availability, ExitReason
from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration

# ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class WorkerRegistration:
    """``POST /workers``: a controller introduces itself; repeated after each restart of either side.

    ``identity`` is random and kept in the worker's data folder: it tells two workers of one name apart. ``starts`` are
    the kinds of streams whose engines its runtime can start.
    """

    worker: str
    host: str
    max_engines: int
    runtime: str
    version: str
    identity: str = ""
    starts: tuple[str, ...] = ("handler", "image")


@dataclass(frozen=True, slots=True)
class WorkerWelcome:
    """Answer to a registration.

    Attributes:
        report_interval_s: How often the controller reports when nothing changes.
        ticket_key: Hex key from which the controller derives each engine's own key (``control.tickets.derive_key``).
        data_address: The master's data port, which engines dial for backlog messages.
    """

    report_interval_s: float
    ticket_key: str = field(repr=False)
    data_address: Address


@dataclass(frozen=True, slots=True)
class RunningMessage:
    """A message that an engine is handling, with the seconds since its handler started.

    ``has_returned``: the seconds are those since its handler returned. What came of it is being kept: plugins are at
    work, or what it emitted is made safe.
    """

    message: str
    running_s: float
    has_returned: bool = False


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One engine, as its controller sees it.

    Attributes:
        address: The engine's data port; ``None`` while it is starting.
        pid: Process id on the worker's host, 0 where there is none.
        handled, failed: Messages that this engine has finished since it started; ``failed`` of them raised.
        received_bytes: Payload bytes since it started.
        image: Digest of the container image that it runs, empty without one.
        socket: Path of the UNIX socket on which it listens as well, as its host sees it; an engine itself says only the
            name in its folder. Empty without one.
    """

    engine: str
    stream: str
    stream_version: int
    state: Availability
    state_since_s: float
    address: Address | None = None
    pid: int = 0
    running: tuple[RunningMessage, ...] = ()
    handled: int = 0
    failed: int = 0
    handled_from_backlog: int = 0
    received_bytes: int = 0
    image: str = ""
    socket: str = ""


@dataclass(frozen=True, slots=True)
class EngineExit:
    """An engine that ended. ``held`` are the message ids that its handlers were running; of one that timed out, only
    those whose handlers ran for too long, because the others go back free of charge."""

    engine: str
    stream: str
    reason: ExitReason
    text: str = ""
    held: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostLoad:
    """The worker's host: CPU in use (0 to 1), memory and scratch disk in bytes."""

    cpu_fraction: float
    memory_used_bytes: int
    memory_total_bytes: int
    disk_free_bytes: int


@dataclass(frozen=True, slots=True)
class StreamTrouble:
    """Why a worker does not have the engines it should: shown in ``status`` until it clears."""

    stream: str
    text: str
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """``POST /workers/{worker}/report``: everything the controller knows; replaces its previous report.

    ``exits`` are repeated until a report that carried them was answered.
    """

    sequence: int
    engines: tuple[EngineReport, ...]
    exits: tuple[EngineExit, ...] = ()
    load: HostLoad | None = None
    troubles: tuple[StreamTrouble, ...] = ()


@dataclass(frozen=True, slots=True)
class ReportAnswer:
    """Not ``is_known``: the master has forgotten this worker, which registers again. Older epochs were revoked."""

    is_known: bool
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class DesiredEngines:
    """How many engines of a stream a worker shall run, and with which declaration.

    ``image`` is the digest that its engines run elsewhere already: another one is not the same stream.
    """

    declaration: StreamDeclaration
    count: int
    image: str = ""


@dataclass(frozen=True, slots=True)
class Desired:
    """``GET /workers/{worker}/desired?generation=N&wait_s=S``: answered at once when the generation is not ``N``,
    else as soon as it changes or a log is wished for, or after ``wait_s`` seconds with the same generation.

    Each wish in ``logs`` is told once.
    """

    generation: int
    streams: tuple[DesiredEngines, ...]
    logs: tuple[LogWish, ...] = ()


# ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """``POST /leases``: a source asks for up to ``count`` engines besides those it already holds.

    ``held`` names the leases that it holds. Others that were granted to it have not reached it: they end, so that their
    engines can be named again. Without it, every lease that was granted counts as held.
    """

    stream: str
    source: str
    count: int
    held: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """``socket`` is the path of the engine's UNIX socket on its own host, empty where it has none."""

    lease: str
    engine: str
    address: Address
    ticket: str = field(repr=False)
    term_s: float
    socket: str = ""


@dataclass(frozen=True, slots=True)
class BacklogAccess:
    """Where a source puts messages that no engine takes, and the ticket to present there."""

    address: Address
    ticket: str = field(repr=False)
    term_s: float


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """``leases`` may be fewer than asked for, or none: then the route is the backlog.

    Attributes:
        route: ``engine`` or ``queue``: where a source without other leases sends now.
        retry_after_s: When to ask again for the rest.
        timeout_s: What a handler of this stream may take; an engine that is silent for longer is given up.
        is_ordered: Whether no message of this stream may overtake another.
        window_s: Seconds of one handler's time that all of an engine's credit stands for; 0 where that is not known.
    """

    leases: tuple[Lease, ...]
    backlog: BacklogAccess
    route: str
    retry_after_s: float
    timeout_s: float = 600.0
    is_ordered: bool = False
    window_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LeaseList:
    """``POST /leases/renew`` and ``POST /leases/release``: the source and its leases."""

    source: str
    leases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeaseRenewal:
    """Leases that go on for another term, and those that have ended; of the latter, ``gone``: so is their engine."""

    renewed: tuple[str, ...]
    ended: tuple[str, ...]
    gone: tuple[str, ...] = ()


# ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class BacklogFigures:
    """One stream's backlog. Bytes are payload bytes; ages are seconds; ``late_total``: late outcomes.

    ``shed_total``: messages given up for others, because the backlog was full and the stream says so.
    """

    stream: str
    ready: int
    reserved: int
    dead: int
    waiting_bytes: int
    oldest_age_s: float
    stored_total: int
    done_total: int
    late_total: int = 0
    shed_total: int = 0


@dataclass(frozen=True, slots=True)
class WorkerView:
    """``is_removable``: none of its engines holds a lease or handles a message. ``starts`` as it registered."""

    worker: str
    host: str
    state: str
    max_engines: int
    engines: int
    busy: int
    is_removable: bool
    last_report_age_s: float
    load: HostLoad | None = None
    troubles: tuple[StreamTrouble, ...] = ()
    starts: tuple[str, ...] = ("handler", "image")


@dataclass(frozen=True, slots=True)
class EngineView:
    engine: str
    stream: str
    worker: str
    state: Availability
    state_since_s: float
    leases: int
    handled: int
    failed: int
    handled_from_backlog: int
    received_bytes: int
    address: Address | None = None
    pid: int = 0
    running: tuple[RunningMessage, ...] = ()
    image: str = ""
    stream_version: int = 0


@dataclass(frozen=True, slots=True)
class StreamView:
    declaration: StreamDeclaration
    desired: int
    running: int
    unplaced: int
    backlog: BacklogFigures


@dataclass(frozen=True, slots=True)
class Status:
    """``GET /status``: the whole cluster on one page.

    ``data_received_bytes`` counts every byte that reached the master's data port (messages for the backlog with their
    headers, and what engines answer), ``control_received_bytes`` the bodies of control requests. Payloads that go
    straight to an engine are in neither. ``recovered``: what the backlog's start has found and done, in sentences.
    """

    version: str
    epoch: int
    uptime_s: float
    lease_requests: int
    data_received_bytes: int
    control_received_bytes: int
    workers: tuple[WorkerView, ...] = ()
    engines: tuple[EngineView, ...] = ()
    streams: tuple[StreamView, ...] = ()
    recovered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """``GET /healthz`` and ``GET /readyz``: ``status`` is ok or ready."""

    status: str


@dataclass(frozen=True, slots=True)
class EngineCount:
    """``POST /streams/{stream}/scale``."""

    engines: int


@dataclass(frozen=True, slots=True)
class FailureView:
    error_type: str
    text: str
    traceback: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class OutcomeView:
    """``GET /streams/{stream}/outcomes/{message}``: ``state`` is waiting, reserved, done, dead or shed."""

    message: str
    state: str
    attempts: int
    failure: FailureView | None = None


# ── tokens and problems ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class TokenRequest:
    name: str
    role: str


@dataclass(frozen=True, slots=True)
class TokenView:
    """``secret`` is present only in the answer that creates the token."""

    name: str
    role: str
    created_at: float
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Problem:
    """``application/problem+json`` (RFC 9457), with our stable ``code``, a hint and whether a repeat may succeed."""

    title: str
    status: int
    code: str
    detail: str = ""
    hint: str = ""
    retryable: bool = False
    retry_after_s: float | None = None
    fields: tuple[str, ...] = field(default=())
