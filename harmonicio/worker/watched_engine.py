"""One engine as the controller watches it.

                     first report that is idle or busy            drain ordered, or it drains by itself
    starting ───────────────────────────────────────► serving ───────────────────────────────────────► leaving
       │                                                 │                                               │
       └────────── time-out, silence or deadline ────────┴──────────────► killed ◄───────────────────────┘
                                                                            │
    Its exit can come from every state, and is the only way out of killed.  ▼
                                                                         (gone)

What its handlers run is read from its board, which needs no help of the engine; where there is none, from its reports.
Then running times go on in silence only: while it reports, what it said to run may have made room for something else.
A message that was said to run for 3 s is at 10 s seven seconds later, when nothing at all was heard meanwhile.

Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from harmonicio.control.messages import DesiredEngines, EngineExit, EngineReport, RunningMessage
from harmonicio.core.engine import Availability, ExitReason, report_interval_s
from harmonicio.core.errors import InvalidInput
from harmonicio.core.lease import Address
from harmonicio.core.names import check_message_id
from harmonicio.core.stream import StreamDeclaration, keeping_timeout_s
from harmonicio.worker.instructions import EngineExited, EngineNotStarted, EngineStarted, EngineStarting

#: Nothing heard for so long: the engine is given up. While it is busy, ``timeout_s`` longer.
SILENT_AFTER_S = 10.0
SILENT_START_AFTER_S = 60.0
#: Of an engine that drains: nothing was left, or handlers were still running at the deadline.
DRAINED_EXIT_CODES = (0, 1)
MAX_TEXT_LENGTH = 500
_MAX_HOST_LENGTH = 255
_MAX_COUNT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Kill:
    """That, when and why an engine was killed; ``held`` are the messages that count as its victims."""

    reason: ExitReason
    text: str
    at: float
    held: tuple[str, ...]


@dataclass(slots=True)
class WatchedEngine:
    """What is known of one engine.

    Attributes:
        is_adopted: An earlier controller started it.
        bond: What it was given of its master.
        address: Where connectors reach it, when that is not where it listens by its own account.
        image: Digest of the image that it runs.
        is_started: Its runtime has said so; where it is reached is not known before.
        doing: What its runtime does to start it, empty once that is done.
        heard_at: When something was heard of it last, or when it was started or found.
        seen, seen_at: What its board said last, and when.
        state, since: Its own word, or starting; and when that began.
        ready_at: When it first could take messages.
        drain_by: Until when it may drain, once it does.
        drain_ordered_at: When the last order to drain was given.
    """

    engine: str
    declaration: StreamDeclaration
    since: float
    bond: str
    pid: int = 0
    is_adopted: bool = False
    address: Address | None = None
    image: str = ""
    is_started: bool = False
    doing: str = ""
    state: Availability = Availability.STARTING
    heard_at: float = field(init=False)
    report: EngineReport | None = None
    seen: tuple[RunningMessage, ...] | None = None
    seen_at: float = 0.0
    ready_at: float | None = None
    drain_by: float | None = None
    drain_ordered_at: float | None = None
    kill: Kill | None = None

    def __post_init__(self) -> None:
        self.heard_at = self.since
        self.is_started = self.is_adopted

    @property
    def stream(self) -> str:
        return self.declaration.name

    def runs(self, wanted: DesiredEngines) -> bool:
        """Whether it is what is wanted: the declaration, and the image, once that is known of both."""
        is_image = not (self.image and wanted.image) or self.image == wanted.image
        return is_image and is_same_recipe(self.declaration, wanted.declaration)

    @property
    def is_leaving(self) -> bool:
        return self.drain_by is not None or self.kill is not None

    @property
    def is_ready(self) -> bool:
        """Whether it takes messages now."""
        return not self.is_leaving and self.state.can_be_leased

    # ── what its runtime says ────────────────────────────────────────────────────────────────────────────────────────

    def come_up(self, event: EngineStarting | EngineStarted, now: float) -> bool:
        """Take in how far its start is, which is a sign of life; return whether that is news."""
        before = self.doing
        self.heard_at = max(self.heard_at, now)
        if isinstance(event, EngineStarting):
            self.doing = event.text
            return self.doing != before
        self.pid, self.address, self.image, self.doing = event.pid, event.address, event.image, ""
        self.is_started = True
        return self.report is not None and self.hear(self.report, now)

    # ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────────

    def hear(self, report: EngineReport, now: float) -> bool:
        """Take in the engine's own word; return whether its state or address changed."""
        report = _bounded(report, self.declaration.concurrency)
        before = (self.state, self.report.address if self.report else None)
        self.report, self.heard_at = report, now
        can_work = self.is_started and report.state.can_be_leased and report.address is not None
        # One that gives up before it was ever ready says that it drains; its exit will tell that it failed.
        has_served = self.ready_at is not None or self.is_adopted or self.drain_ordered_at is not None
        is_draining = report.state is Availability.DRAINING and has_served
        state = report.state if can_work or is_draining else Availability.STARTING
        if state is not self.state:
            self.state, self.since = state, now
        if self.ready_at is None and can_work:
            self.ready_at = now
        if state is Availability.DRAINING and self.drain_by is None:
            self.drain_by = now + self.declaration.timeout_s
        return before != (self.state, report.address)

    def see(self, running: tuple[RunningMessage, ...], now: float) -> None:
        """Take in what its board says; that is no sign of life."""
        self.seen, self.seen_at = running, now

    def excuse(self, gap_s: float) -> None:
        """The controller itself did not run for so long: nobody else is to blame for the silence."""
        self.heard_at += gap_s

    # ── what follows from it ─────────────────────────────────────────────────────────────────────────────────────────

    def running(self, now: float) -> tuple[RunningMessage, ...]:
        """Return what its handlers run, as far as is known."""
        running, at = self._known
        elapsed_s = max(0.0, now - at)
        return tuple(replace(each, running_s=each.running_s + elapsed_s) for each in running)

    @property
    def _known(self) -> tuple[tuple[RunningMessage, ...], float]:
        """What its handlers ran, and when that was so."""
        if self.seen is not None:
            return self.seen, self.seen_at
        return (self.report.running if self.report else ()), self.heard_at

    def due_kill(self, now: float) -> Kill | None:
        """Return the kill that it is due because something has been running for longer than the stream allows.

        Only what a handler has run for too long counts an attempt; what else it held goes back free of charge. That
        keeping takes too long is no message's fault, and a store that hangs may answer a new process.
        """
        overdue = self._overdue(now)
        charged = tuple(each.message for each in overdue if not each.has_returned)
        if charged:
            text = f"Message {charged[0]} ran for longer than {self.declaration.timeout_s:g} s."
            return Kill(ExitReason.TIMED_OUT, text, now, charged)
        if not overdue:
            return None
        took = f"took longer than {keeping_timeout_s(self.declaration.timeout_s):g} s"
        text = f"Message {overdue[0].message} was handled, but storing it, or what it emitted, {took}."
        return Kill(ExitReason.TIMED_OUT, f"{text} See that tiers and feature database answer.", now, ())

    def _overdue(self, now: float) -> tuple[RunningMessage, ...]:
        timeout_s = self.declaration.timeout_s
        running, at = self._known
        if now - at > 2 * report_interval_s(timeout_s):
            running = self.running(now)
        kept_s = keeping_timeout_s(timeout_s)
        return tuple(each for each in running if each.running_s > (kept_s if each.has_returned else timeout_s))

    def silent_for_too_long_s(self, now: float) -> float | None:
        """Return the limit that its silence exceeds, or ``None``."""
        if self.running(now) or self.state not in (Availability.STARTING, Availability.IDLE):
            # A handler may keep the interpreter's lock all that time; when it runs for too long, that is the reason.
            limit_s = SILENT_AFTER_S + self.declaration.timeout_s
        else:
            limit_s = SILENT_START_AFTER_S if self.state is Availability.STARTING else SILENT_AFTER_S
        return limit_s if now - self.heard_at > limit_s else None

    def ended(self, event: EngineExited | EngineNotStarted, now: float) -> EngineExit:
        """Return the record of its exit."""
        reason, text, held = self._verdict(event, now)
        said = f"{text} {event.text}".strip()
        return EngineExit(self.engine, self.stream, reason, said[:MAX_TEXT_LENGTH], held)

    def _verdict(self, event: EngineExited | EngineNotStarted, now: float) -> tuple[ExitReason, str, tuple[str, ...]]:
        if isinstance(event, EngineNotStarted):
            if self.drain_ordered_at is not None:
                return ExitReason.ORDERED, "", ()
            return ExitReason.FAILED_TO_START, "It could not be started.", ()
        held = tuple(each.message for each in self.running(now))
        if self.kill is not None:
            return self.kill.reason, self.kill.text, self.kill.held
        how = _described(event.exit_code)
        if self.drain_ordered_at is not None:
            is_finished = event.exit_code is None or event.exit_code <= 0
            return ExitReason.ORDERED, "" if is_finished else f"It ended {how} before it had finished.", held
        # A message can come, and end the engine, before the controller has heard that it is ready.
        if self.ready_at is None and not self.is_adopted and not held:
            return ExitReason.FAILED_TO_START, f"It ended {how} before it was ready.", held
        if self.has_drained(event) or (self.report is None and not held):
            return ExitReason.UNKNOWN, f"It ended by itself {how}.", held
        return ExitReason.CRASHED, f"It ended {how}.", held

    def has_drained(self, event: EngineExited | EngineNotStarted) -> bool:
        """Whether it ended as one does that somebody else has sent a SIGTERM, in time or at its deadline."""
        is_drained = isinstance(event, EngineExited) and event.exit_code in DRAINED_EXIT_CODES
        return is_drained and self.state is Availability.DRAINING

    def served_for_s(self, now: float) -> float:
        """Return for how long it has been able to take messages, at most."""
        return 0.0 if self.ready_at is None else now - self.ready_at

    def as_report(self, now: float) -> EngineReport:
        """Return what the master is told of it."""
        known = self.report or EngineReport(self.engine, self.stream, 0, self.state, 0.0)
        return replace(
            known,
            engine=self.engine,
            stream=self.stream,
            stream_version=self.declaration.version,
            state=Availability.DRAINING if self.is_leaving else self.state,
            state_since_s=max(0.0, now - self.since),
            address=known.address and replace(self.address or known.address, speaks_tls=known.address.speaks_tls),
            pid=self.pid or known.pid,
            running=self.running(now),
            image=self.image,
        )


def _bounded(report: EngineReport, concurrency: int) -> EngineReport:
    """Return of an engine's own word what may go on to the master: its code could say anything, of any size."""
    address = report.address
    is_address = (
        address is not None
        and 0 < len(address.host) <= _MAX_HOST_LENGTH
        and address.host.isprintable()
        and 0 < address.port < 2**16
    )
    return replace(
        report,
        address=address if is_address else None,
        pid=_count(report.pid),
        running=tuple(_messages(report.running))[:concurrency],
        handled=_count(report.handled),
        failed=_count(report.failed),
        handled_from_backlog=_count(report.handled_from_backlog),
        received_bytes=_count(report.received_bytes),
    )


def _count(said: int) -> int:
    return min(max(0, said), _MAX_COUNT)


def _messages(running: Iterable[RunningMessage]) -> Iterable[RunningMessage]:
    for each in running:
        with suppress(InvalidInput):
            check_message_id(each.message)
            yield each


def is_same_recipe(one: StreamDeclaration, other: StreamDeclaration) -> bool:
    """Whether both say the same engine; how many of them there shall be does not matter."""
    return one is other or one == replace(other, engines=one.engines)


def _described(exit_code: int | None) -> str:
    if exit_code is None:
        return "with an unknown exit code"
    return f"by signal {-exit_code}" if exit_code < 0 else f"with exit code {exit_code}"
