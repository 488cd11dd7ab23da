"""Decides which engines a worker starts, drains and kills, from what the master wants and what is there.

    master, desired, found, started, reported, exited, tick ──► Controller ──► start, drain, kill, forget, report now

Rules:

- Reconcile: each desired stream gets its number of engines with its present declaration, never more than
  ``max_engines`` processes altogether; one that still drains counts too.
- A changed declaration, or another master, replaces engines one after another: a new one is started, and once it is
  ready an old one is drained. On a full worker, and for an ordered stream, the old one goes first.
- Scaling down drains idle engines first. An engine that has not drained by its deadline is killed.
- A failed engine is replaced after a back-off of its stream; while failures are fresh, engines start one at a time.
- A message whose handler runs longer than its stream's ``timeout_s`` has its engine killed, also when that is frozen.
  So has one that takes longer than that, and than 30 s, to be kept, from when its handler has returned: that is charged
  to nobody, but is a failure of the stream, because a store that hangs is not cured by starts in a row.
- An engine from which nothing was heard for too long is killed.
- An engine that drains although nobody here has ordered it (a SIGTERM from outside) is replaced at once: no failure.
- The exit of an engine is told to the master until the master has answered.
- Time in which the controller itself did not run is held against nobody.

Pure: no I/O, no threads, no clock. ``now`` is seconds of any clock that never goes backwards. ``Tick`` comes at least
every ``LONGEST_GAP_S`` seconds.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from harmonicio.control.messages import (
    Desired,
    DesiredEngines,
    EngineExit,
    EngineReport,
    HostLoad,
    StreamTrouble,
    WorkerReport,
)
from harmonicio.core.engine import Availability, ExitReason
from harmonicio.worker.back_off import BackOff
from harmonicio.worker.instructions import (
    DrainEngine,
    EngineExited,
    EngineFound,
    EngineNotStarted,
    EngineStarted,
    EngineStarting,
    EngineUnwell,
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
)
from harmonicio.worker.watched_engine import Kill, WatchedEngine, is_same_recipe

#: The master hears of changes that matter to routing within these times; flips of idle and busy may wait longer.
CHANGE_WITHIN_S = 0.05
FLIP_WITHIN_S = 0.2
#: Events that are further apart mean that the controller's own process was stopped or starved.
LONGEST_GAP_S = 5.0
REPEAT_DRAIN_AFTER_S = 1.0
REPEAT_KILL_AFTER_S = 5.0
MAX_UNACKNOWLEDGED_EXITS = 1_000
#: An engine that drains by itself and has served for less is a failure: else a handler could have it replaced for ever.
SERVED_S = 1.0

#: Whom scaling down takes first.
_LEAST_MISSED = {Availability.IDLE: 0, Availability.STARTING: 1}


class Controller:
    """The decisions of one worker.

    Args:
        max_engines: Never more than so many engine processes.
        draw_engine_id: Draws an id for a new engine.
        chance: For the jitter of back-offs.
    """

    def __init__(self, *, max_engines: int, draw_engine_id: Callable[[], str], chance: random.Random) -> None:
        self._max_engines = max_engines
        self._draw_engine_id = draw_engine_id
        self._chance = chance
        self._engines: dict[str, WatchedEngine] = {}
        self._desired: dict[str, DesiredEngines] | None = None
        self._bond: str | None = None
        self._back_offs: dict[str, BackOff] = {}
        self._exits: dict[str, EngineExit] = {}
        self._is_stopping = False
        self._now: float | None = None

    def __repr__(self) -> str:
        states = Counter("leaving" if each.is_leaving else str(each.state) for each in self._engines.values())
        return f"<Controller {dict(states)} max={self._max_engines} exits={len(self._exits)}>"

    @property
    def engines(self) -> tuple[str, ...]:
        """The ids of all engines that have not ended."""
        return tuple(self._engines)

    def concurrency(self, engine: str) -> int:
        """Return how many messages an engine handles at the same time; 0 when it is not known (any more)."""
        return self._engines[engine].declaration.concurrency if engine in self._engines else 0

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Return what is to be done after ``event``, in this order."""
        self._excuse_own_absence(now)
        if isinstance(event, HandlersSeen):
            if event.engine in self._engines:
                self._engines[event.engine].see(event.running, now)
            return []  # What follows from it follows with the next tick, or with the engine's exit.
        if isinstance(event, EngineReport):
            instructions = self._hear(event, now)
            if instructions in ([], [ReportNow(FLIP_WITHIN_S)]):
                return instructions  # The common cases, with nothing to decide: time is watched by the ticks.
        else:
            instructions = self._take(event, now)
        instructions += self._watch(now)
        return _reported_once(instructions + self._reconcile(now))

    def _take(self, event: Event, now: float) -> list[Instruction]:
        if isinstance(event, Desired):
            self._want(event)
        elif isinstance(event, MasterMet):
            self._bond = event.bond
        elif isinstance(event, (EngineStarting, EngineStarted)):
            if event.engine in self._engines and self._engines[event.engine].come_up(event, now):
                return [ReportNow(CHANGE_WITHIN_S)]
        elif isinstance(event, EngineUnwell):
            return self._give_up(event, now)
        elif isinstance(event, EngineFound):
            return self._adopt(event, now)
        elif isinstance(event, (EngineExited, EngineNotStarted)):
            return self._bury(event, now)
        elif isinstance(event, ExitsAcknowledged):
            for engine in event.engines:
                self._exits.pop(engine, None)
        elif isinstance(event, StopOrdered):
            return self._stop(event.within_s, now)
        return []

    def _excuse_own_absence(self, now: float) -> None:
        if self._now is not None and now - self._now > LONGEST_GAP_S:
            for engine in self._engines.values():
                engine.excuse(now - self._now)
        self._now = now

    # ── what is heard ────────────────────────────────────────────────────────────────────────────────────────────────

    def _want(self, desired: Desired) -> None:
        before = self._desired or {}
        self._desired = {each.declaration.name: each for each in desired.streams}
        for stream in list(self._back_offs):
            wanted = self._desired.get(stream)
            if wanted is None or not is_same_recipe(wanted.declaration, before[stream].declaration):
                del self._back_offs[stream]  # Another declaration deserves a fresh start.

    def _hear(self, report: EngineReport, now: float) -> list[Instruction]:
        engine = self._engines.get(report.engine)
        if engine is None:
            return []
        was_ready = engine.is_ready
        has_changed = engine.hear(report, now)
        if _has_missed_its_order(engine, report, now):
            return [self._order_drain(engine, engine.drain_by or now, now)]
        if not has_changed:
            return []
        return [ReportNow(FLIP_WITHIN_S if was_ready and engine.is_ready else CHANGE_WITHIN_S)]

    def _adopt(self, found: EngineFound, now: float) -> list[Instruction]:
        engine = WatchedEngine(found.engine, found.declaration, now, found.bond, is_adopted=True)
        engine.pid, engine.address, engine.image = found.pid, found.address, found.image
        self._engines.setdefault(found.engine, engine)
        if found.is_running:
            return [ReportNow(CHANGE_WITHIN_S)]
        return self._bury(EngineExited(found.engine, None, found.text), now)

    def _give_up(self, event: EngineUnwell, now: float) -> list[Instruction]:
        """Kill an engine whose own health check failed; that is a failure, not an order."""
        engine = self._engines.get(event.engine)
        if engine is None or engine.kill is not None:
            return []
        held = tuple(each.message for each in engine.running(now))
        return self._kill(engine, Kill(_reason_to_give_up(engine), event.text, now, held), now)

    def _kill(self, engine: WatchedEngine, kill: Kill, now: float) -> list[Instruction]:
        if engine.kill is None:  # Its place is free from now on, so this is when its failure counts.
            is_handlers_fault = kill.reason is ExitReason.TIMED_OUT and bool(kill.held)
            self._back_off_after(engine, kill.reason, kill.text, now, is_handlers_fault=is_handlers_fault)
        engine.kill = kill
        return [KillEngine(engine.engine, kill.text), ReportNow(CHANGE_WITHIN_S)]

    def _bury(self, event: EngineExited | EngineNotStarted, now: float) -> list[Instruction]:
        engine = self._engines.pop(event.engine, None)
        if engine is None:
            return []
        ended = engine.ended(event, now)
        self._exits[engine.engine] = ended
        while len(self._exits) > MAX_UNACKNOWLEDGED_EXITS:
            del self._exits[next(iter(self._exits))]
        if engine.kill is None and not (engine.has_drained(event) and engine.served_for_s(now) >= SERVED_S):
            self._back_off_after(engine, ended.reason, ended.text, now)
        return [ForgetEngine(ended), ReportNow(CHANGE_WITHIN_S)]

    def _back_off_after(
        self, engine: WatchedEngine, reason: ExitReason, text: str, now: float, *, is_handlers_fault: bool = False
    ) -> None:
        wanted = (self._desired or {}).get(engine.stream)
        if wanted is None or not is_same_recipe(engine.declaration, wanted.declaration):
            return
        back_off = self._back_offs.setdefault(engine.stream, BackOff())
        if engine.ready_at is not None:
            back_off.survive(engine.ready_at, now)
        # Ordered exits are no failures, nor is a handler's time-out, which is its message's: others shall not wait.
        if reason is not ExitReason.ORDERED and not is_handlers_fault:
            back_off.fail(f"Engine {engine.engine}: {text}", now, self._chance)

    def _stop(self, within_s: float, now: float) -> list[Instruction]:
        self._is_stopping = True
        stop_by = now + within_s
        for engine in self._engines.values():
            engine.drain_by = stop_by if engine.drain_by is None else min(engine.drain_by, stop_by)
        return [self._order_drain(each, each.drain_by or now, now) for each in self._engines.values()]

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _watch(self, now: float) -> list[Instruction]:
        """Kill what runs, drains or is silent for too long; and forgive streams whose engines live."""
        instructions: list[Instruction] = []
        for engine in self._engines.values():
            kill = self._due_kill(engine, now)
            if kill is not None:
                instructions += self._kill(engine, kill, now)
            elif engine.ready_at is not None and engine.stream in self._back_offs:
                self._back_offs[engine.stream].survive(engine.ready_at, now)
        return instructions

    def _due_kill(self, engine: WatchedEngine, now: float) -> Kill | None:
        if engine.kill is not None:
            has_waited = now - engine.kill.at >= REPEAT_KILL_AFTER_S
            return Kill(engine.kill.reason, engine.kill.text, now, engine.kill.held) if has_waited else None
        if kill := engine.due_kill(now):
            return kill
        held = tuple(each.message for each in engine.running(now))
        if engine.drain_by is not None and now >= engine.drain_by:
            return Kill(ExitReason.ORDERED, "It had not drained in the time it was given.", now, held)
        silent_s = engine.silent_for_too_long_s(now)
        if silent_s is None:
            return None
        return Kill(_reason_to_give_up(engine), f"Nothing was heard of it for {silent_s:g} s.", now, held)

    # ── reconciling ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _reconcile(self, now: float) -> list[Instruction]:
        if self._desired is None or self._bond is None or self._is_stopping:
            return []
        instructions: list[Instruction] = []
        for stream in {each.stream for each in self._engines.values()} - self._desired.keys():
            instructions += self._drain(self._serving(stream), now)
        for wanted in self._desired.values():
            instructions += self._drain(self._surplus(wanted), now)
        for wanted in self._desired.values():
            instructions += self._fill(wanted, now)
        return instructions

    def _serving(self, stream: str) -> list[WatchedEngine]:
        return [each for each in self._engines.values() if each.stream == stream and not each.is_leaving]

    def _split(self, wanted: DesiredEngines) -> tuple[list[WatchedEngine], list[WatchedEngine]]:
        """Return the serving engines of the present declaration, and those of older ones."""
        serving = self._serving(wanted.declaration.name)
        current = [each for each in serving if each.bond == self._bond and each.runs(wanted)]
        return current, [each for each in serving if each not in current]

    def _surplus(self, wanted: DesiredEngines) -> list[WatchedEngine]:
        """Return the engines that a stream does not need any more."""
        current, old = self._split(wanted)
        ready = sum(each.is_ready for each in current)
        needed = 0 if wanted.declaration.ordered else max(0, wanted.count - ready)
        return _most_idle(current, len(current) - wanted.count) + _most_idle(old, len(old) - needed)

    def _fill(self, wanted: DesiredEngines, now: float) -> list[Instruction]:
        """Start what a stream lacks, or make room for it."""
        current, old = self._split(wanted)
        back_off = self._back_offs.get(wanted.declaration.name, BackOff())
        if len(current) >= wanted.count or not back_off.may_start(now):
            return []
        has_starting = any(not each.is_ready for each in current)
        lacking = wanted.count - len(current) - len(old)
        if lacking <= 0 and not has_starting:
            if self._room() <= 0:
                return self._make_room(wanted, old, now)
            lacking = 1
        if back_off.failures:
            lacking = 0 if has_starting else min(1, lacking)
        if wanted.declaration.ordered and any(
            each.stream == wanted.declaration.name for each in self._engines.values()
        ):
            lacking = 0
        return [self._start(wanted, now) for _ in range(min(lacking, self._room()))]

    def _make_room(self, wanted: DesiredEngines, old: list[WatchedEngine], now: float) -> list[Instruction]:
        is_under_way = any(each.is_leaving for each in self._engines.values() if each.stream == wanted.declaration.name)
        return [] if is_under_way else self._drain(_most_idle(old, 1), now)

    def _room(self) -> int:
        return self._max_engines - len(self._engines)

    def _start(self, wanted: DesiredEngines, now: float) -> Instruction:
        engine = self._draw_engine_id()
        while engine in self._engines or engine in self._exits:
            engine = self._draw_engine_id()
        self._engines[engine] = WatchedEngine(engine, wanted.declaration, now, self._bond or "")
        return StartEngine(engine, wanted.declaration, wanted.image)

    def _drain(self, engines: Iterable[WatchedEngine], now: float) -> list[Instruction]:
        return [self._order_drain(each, now + each.declaration.timeout_s, now) for each in engines]

    def _order_drain(self, engine: WatchedEngine, drain_by: float, now: float) -> Instruction:
        is_starting = engine.state is Availability.STARTING
        if not engine.is_leaving:
            engine.since = now
        engine.drain_by, engine.drain_ordered_at = drain_by, now
        return DrainEngine(engine.engine, max(0.0, drain_by - now), is_starting)

    # ── what the master is told ──────────────────────────────────────────────────────────────────────────────────────

    def report(self, sequence: int, load: HostLoad | None, now: float) -> WorkerReport:
        """Return everything that the master should know."""
        engines = tuple(each.as_report(now) for each in self._engines.values())
        return WorkerReport(sequence, engines, tuple(self._exits.values()), load, self._troubles(now))

    def _troubles(self, now: float) -> tuple[StreamTrouble, ...]:
        found = map(partial(self._trouble, now=now), (self._desired or {}).values())
        return tuple(each for each in found if each is not None)

    def _trouble(self, wanted: DesiredEngines, now: float) -> StreamTrouble | None:
        stream = wanted.declaration.name
        current, old = self._split(wanted)
        back_off = self._back_offs.get(stream, BackOff())
        if back_off.failures and sum(each.is_ready for each in current) < wanted.count:
            return StreamTrouble(stream, back_off.text, round(back_off.retry_in_s(now), 3))
        if len(current) + len(old) < wanted.count and self._room() <= 0:
            return StreamTrouble(stream, f"All {self._max_engines} places for engines are taken.", 0.0)
        doing = next((each.doing for each in current if each.doing), "")
        return StreamTrouble(stream, doing, 0.0) if doing else None


def _has_missed_its_order(engine: WatchedEngine, report: EngineReport, now: float) -> bool:
    """Whether it was told to drain a while ago and works on, perhaps because its connection broke then."""
    if engine.drain_ordered_at is None or engine.kill is not None or report.state is Availability.DRAINING:
        return False
    return now - engine.drain_ordered_at >= REPEAT_DRAIN_AFTER_S


def _reason_to_give_up(engine: WatchedEngine) -> ExitReason:
    """Return why an engine is given up that has not ended by itself."""
    if engine.drain_ordered_at is not None:
        return ExitReason.ORDERED
    has_never_served = engine.ready_at is None and not engine.is_adopted
    return ExitReason.FAILED_TO_START if has_never_served else ExitReason.UNKNOWN


def _most_idle(engines: list[WatchedEngine], count: int) -> list[WatchedEngine]:
    """Return ``count`` of the engines that are missed least: idle ones, then the youngest."""
    by_worth = sorted(engines, key=lambda each: (_LEAST_MISSED.get(each.state, 2), -each.since))
    return by_worth[: max(0, count)]


def _reported_once(instructions: list[Instruction]) -> list[Instruction]:
    """Return the instructions with at most one ReportNow, the most urgent, at the end."""
    acts = [each for each in instructions if not isinstance(each, ReportNow)]
    urgencies = [each.within_s for each in instructions if isinstance(each, ReportNow)]
    if any(isinstance(each, (StartEngine, DrainEngine)) for each in acts):
        urgencies.append(CHANGE_WITHIN_S)
    return [*acts, ReportNow(min(urgencies))] if urgencies else list(acts)
