"""A worker's host without processes: engines that are only states, under a clock that the test moves.

The real controller decides; this double carries its instructions out, and checks on the way that they make sense: no
engine is started twice, and never more than the worker may have.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from harmonicio.control.messages import Desired, DesiredEngines, EngineReport, RunningMessage
from harmonicio.core.engine import Availability
from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration
from harmonicio.worker.controller import Controller
from harmonicio.worker.instructions import (
    DrainEngine,
    EngineExited,
    EngineNotStarted,
    EngineStarted,
    Event,
    ForgetEngine,
    Instruction,
    KillEngine,
    MasterMet,
    StartEngine,
    Tick,
)

STEP_S = 0.25
BOND = "one"
ADDRESS = Address("127.0.0.1", 4000)


@dataclass(slots=True)
class SimulatedEngine:
    """An engine that is a state. ``running_since`` maps message ids to when their handlers started."""

    engine: str
    declaration: StreamDeclaration
    started_at: float
    is_frozen: bool = False
    is_draining: bool = False
    is_ready: bool = False
    running_since: dict[str, float] = field(default_factory=dict)

    @property
    def state(self) -> Availability:
        if self.is_draining:
            return Availability.DRAINING
        if not self.is_ready:
            return Availability.STARTING
        return Availability.BUSY if self.running_since else Availability.IDLE

    def report(self, now: float) -> EngineReport:
        return EngineReport(
            self.engine,
            self.declaration.name,
            self.declaration.version,
            self.state,
            0.0,
            address=ADDRESS if self.is_ready else None,
            running=tuple(RunningMessage(each, now - since) for each, since in self.running_since.items()),
        )


class SimulatedHost:
    """A controller and its engines.

    Args:
        max_engines: The worker's number of engines.
        start_s: Seconds from an engine's start until it is ready.
        seed: For the controller's chance.

    Attributes:
        broken_streams: Engines of these streams say that they drain as soon as they run, and end with exit code 3.
        missing_streams: Engines of these streams cannot even be started.
        is_deaf: Orders to drain get lost, as on a broken control connection.
        started: When each engine was started, in order, with its stream.
        history: Every instruction, with its time.
    """

    def __init__(self, *, max_engines: int = 4, start_s: float = 0.5, seed: int = 0) -> None:
        self.now = 1000.0
        self.start_s = start_s
        self.max_engines = max_engines
        self.engines: dict[str, SimulatedEngine] = {}
        self.broken_streams: set[str] = set()
        self.missing_streams: set[str] = set()
        self.is_deaf = False
        self.is_unkillable = False
        self.started: list[tuple[float, str]] = []
        self.history: list[tuple[float, Instruction]] = []
        self._drawn = 0
        self._generation = 0
        self.controller = Controller(max_engines=max_engines, draw_engine_id=self._draw, chance=random.Random(seed))
        self.controller.handle(MasterMet(BOND), self.now)

    def __repr__(self) -> str:
        return f"<SimulatedHost at {self.now:g} s: {[f'{each.engine} {each.state}' for each in self.engines.values()]}>"

    def _draw(self) -> str:
        self._drawn += 1
        if self._drawn % 2 and self.engines:
            return next(reversed(self.engines))  # Chance may draw one that is there: the controller has to notice.
        return f"e-{self._drawn:08x}"

    # ── what a test does ─────────────────────────────────────────────────────────────────────────────────────────────

    def want(self, *streams: tuple[StreamDeclaration, int]) -> list[Instruction]:
        """Let the master want so many engines of each stream, and of no other."""
        self._generation += 1
        return self.give(Desired(self._generation, tuple(DesiredEngines(*each) for each in streams)))

    def give(self, event: Event) -> list[Instruction]:
        """Give the controller an event, carry out what it orders, and return that."""
        instructions = self.controller.handle(event, self.now)
        for each in instructions:
            self.history.append((self.now, each))
            self._carry_out(each)
        return instructions

    def run(self, seconds: float) -> None:
        """Let time pass; engines that are not frozen report four times a second."""
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            for engine in list(self.engines.values()):
                self._let_live(engine)
            self.give(Tick())

    def handle_message(self, engine: str, message: str) -> None:
        """An engine starts to handle a message, and says so."""
        self.engines[engine].running_since[message] = self.now
        self.give(self.engines[engine].report(self.now))

    def finish_message(self, engine: str, message: str) -> None:
        del self.engines[engine].running_since[message]
        self.give(self.engines[engine].report(self.now))

    def end(self, engine: str, exit_code: int | None, text: str = "") -> None:
        """An engine's process ends."""
        del self.engines[engine]
        self.give(EngineExited(engine, exit_code, text))

    def engines_of(self, stream: str, *states: Availability) -> list[str]:
        """Return the engines of a stream, in one of these states if any are given."""
        return [
            each.engine
            for each in self.engines.values()
            if each.declaration.name == stream and (not states or each.state in states)
        ]

    def orders(self, kind: type[Instruction]) -> list[Instruction]:
        """Return the instructions of one kind, oldest first."""
        return [each for _, each in self.history if isinstance(each, kind)]

    # ── carrying out ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _carry_out(self, instruction: Instruction) -> None:
        if isinstance(instruction, StartEngine):
            self._start(instruction)
        elif isinstance(instruction, DrainEngine):
            if not self.is_deaf and instruction.engine in self.engines:
                self.engines[instruction.engine].is_draining = True
        elif isinstance(instruction, KillEngine):
            if not self.is_unkillable and self.engines.pop(instruction.engine, None) is not None:
                self.give(EngineExited(instruction.engine, -9))
        elif isinstance(instruction, ForgetEngine):
            assert instruction.exit.engine not in self.engines, "a living engine was forgotten"

    def _start(self, instruction: StartEngine) -> None:
        assert instruction.engine not in self.engines, "an engine was started twice"
        assert len(self.engines) < self.max_engines, "more engines than the worker may have"
        self.started.append((self.now, instruction.declaration.name))
        if instruction.declaration.name in self.missing_streams:
            self.give(EngineNotStarted(instruction.engine, "There is no such image."))
            return
        self.engines[instruction.engine] = SimulatedEngine(instruction.engine, instruction.declaration, self.now)
        self.give(EngineStarted(instruction.engine, pid=len(self.started)))

    def _let_live(self, engine: SimulatedEngine) -> None:
        if engine.is_frozen or engine.engine not in self.engines:
            return
        if engine.declaration.name in self.broken_streams and not engine.is_ready:
            engine.is_draining = True
            self.give(engine.report(self.now))
            self.end(engine.engine, 3, "ModuleNotFoundError: No module named 'counting'")
        elif engine.is_draining and not engine.running_since:
            self.end(engine.engine, 0)
        else:
            engine.is_ready = engine.is_ready or self.now - engine.started_at >= self.start_s
            self.give(engine.report(self.now))
