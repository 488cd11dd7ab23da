"""What the controller hears and what it orders: the words between the pure controller and its shell.

Besides the events here, :class:`~harmonicio.control.messages.Desired` (from the master) and
:class:`~harmonicio.control.messages.EngineReport` (from an engine) are events as they stand.
"""

from __future__ import annotations

from dataclasses import dataclass

from harmonicio.control.messages import Desired, EngineExit, EngineReport, RunningMessage
from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration

# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class MasterMet:
    """A master has welcomed this worker.

    Attributes:
        bond: Digest of what an engine is given of its master: keys and addresses. An engine with another bond than the
            present one is of no use any more, because no ticket opens it.
    """

    bond: str


@dataclass(frozen=True, slots=True)
class EngineFound:
    """An engine of an earlier controller is there when this one starts.

    Attributes:
        text: Its last word when it has ended.
        bond: As it was when it was started.
        address, image: As :class:`EngineStarted` says.
    """

    engine: str
    declaration: StreamDeclaration
    pid: int
    is_running: bool
    text: str = ""
    bond: str = ""
    address: Address | None = None
    image: str = ""


@dataclass(frozen=True, slots=True)
class EngineStarting:
    """The runtime is on the way to start it, and how far: that its image is being pulled."""

    engine: str
    text: str


@dataclass(frozen=True, slots=True)
class EngineStarted:
    """The runtime has started it; nothing has been heard of it yet.

    Attributes:
        pid: Process id on the worker's host, 0 where there is none.
        address: Where connectors reach it, when that is not where it listens by its own account.
        image: Digest of the image that it runs, empty without one.
    """

    engine: str
    pid: int
    address: Address | None = None
    image: str = ""


@dataclass(frozen=True, slots=True)
class EngineNotStarted:
    """The runtime could not start it, and nothing of it is there."""

    engine: str
    text: str


@dataclass(frozen=True, slots=True)
class EngineExited:
    """Its process or container is gone.

    Attributes:
        exit_code: Negative for a signal; ``None`` where it is not known.
        text: The last line of its log.
    """

    engine: str
    exit_code: int | None
    text: str = ""


@dataclass(frozen=True, slots=True)
class EngineUnwell:
    """The health check of its own image has given it up."""

    engine: str
    text: str


@dataclass(frozen=True, slots=True)
class HandlersSeen:
    """What an engine's handlers run by its board (:mod:`harmonicio.control.handler_board`), also when it is silent or
    has ended: nothing else is fresher."""

    engine: str
    running: tuple[RunningMessage, ...]


@dataclass(frozen=True, slots=True)
class ExitsAcknowledged:
    """The master has answered a report that carried the exits of these engines."""

    engines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopOrdered:
    """The worker ends: every engine is drained, and killed after ``within_s`` seconds."""

    within_s: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes."""


#: What a runtime tells.
RuntimeEvent = EngineStarting | EngineStarted | EngineNotStarted | EngineUnwell | EngineExited

Event = (
    MasterMet
    | Desired
    | EngineReport
    | EngineFound
    | RuntimeEvent
    | HandlersSeen
    | ExitsAcknowledged
    | StopOrdered
    | Tick
)

# ── instructions ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class StartEngine:
    """Answered by EngineStarted or EngineNotStarted. ``image`` is the digest that it must be, if there is one."""

    engine: str
    declaration: StreamDeclaration
    image: str = ""


@dataclass(frozen=True, slots=True)
class DrainEngine:
    """Tell it to finish what it runs and end. May be repeated.

    Attributes:
        is_starting: It holds nothing, and may be in a long setup: the runtime shall end it. Else it is told over its
            control connection, where there is one.
    """

    engine: str
    within_s: float
    is_starting: bool = False


@dataclass(frozen=True, slots=True)
class KillEngine:
    """End it now, whatever it does. Repeated while it has not ended."""

    engine: str
    text: str


@dataclass(frozen=True, slots=True)
class ForgetEngine:
    """It has ended and is recorded: remove what is left of it."""

    exit: EngineExit


@dataclass(frozen=True, slots=True)
class ReportNow:
    """The master should hear of a change within so many seconds."""

    within_s: float


Instruction = StartEngine | DrainEngine | KillEngine | ForgetEngine | ReportNow
