"""Bugs that are planted on purpose, from outside: whoever finds none of them would not find a real one either.

Each changes one decision of the product while a simulation runs. ``make simulate PLANT=name`` looks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harmonicio.engine.message import Message
from harmonicio.engine.slots import Slot
from harmonicio.engine.work import Work
from harmonicio.master.backlog.ledger import Ledger
from harmonicio.master.backlog.reservations import Reservations
from harmonicio.stream_connector.dispatch import Dispatch
from harmonicio.wire.outcomes import DONE
from simulation.loop import current

Substitutes = list[tuple[Any, str, Any]]


def _no_fsync(world: Any) -> Substitutes:
    """The store answers before the sync."""
    world.master.disk.is_sync_removed = True
    return []


def _done_first(world: Any) -> Substitutes:
    """An engine answers `done` before the handler has run."""
    real = Work.run

    def run(work: Work, message: Any, slot: Slot) -> tuple[Any, bytes]:
        message = _keep(message)
        current().process.spawn("handler", real, work, message, Slot(0))
        return DONE, b""

    return [(Work, "run", run)]


def _keep(message: Message) -> Message:
    payload, metadata = memoryview(bytes(message.payload)), message.metadata
    return Message(message.id, message.stream, payload, metadata, message.priority, message.attempt, message.route)


def _not_fenced(world: Any) -> Substitutes:
    """The outcome of a reservation that was given up counts all the same."""
    real = Reservations.end

    def end(reservations: Reservations, reservation: Any) -> bool:
        real(reservations, reservation)
        return True

    return [(Reservations, "end", end)]


def _suspects_dropped(world: Any) -> Substitutes:
    """What was under way when a connection broke is taken for delivered."""
    real = Dispatch.lane_closed

    def lane_closed(dispatch: Dispatch, lane: Any, now: float) -> None:
        for sequence, parcel in list(lane.in_flight.items()):
            if sequence < lane.begun:
                del lane.in_flight[sequence]
                dispatch._settle([parcel], DONE, lane.is_backlog)
        real(dispatch, lane, now)

    return [(Dispatch, "lane_closed", lane_closed)]


def _budget_leak(world: Any) -> Substitutes:
    """Room for a payload that did not arrive whole is not given back."""
    return [(Ledger, "withdraw", lambda ledger, size_bytes: None)]


def _crashes_not_counted(world: Any) -> Substitutes:
    """Nobody is charged for the end of an engine."""
    return [(Ledger, "charge", lambda *given, **more: [])]


PLANTS: dict[str, Callable[[Any], Substitutes]] = {
    "fsync-removed": _no_fsync,
    "done-before-handler": _done_first,
    "not-fenced": _not_fenced,
    "suspects-dropped": _suspects_dropped,
    "budget-leak": _budget_leak,
    "crashes-not-counted": _crashes_not_counted,
}
