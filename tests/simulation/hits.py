"""Counts what happened inside the product: moves of the ledger, ends of reservations and leases, states of engines.

Wraps methods of the product while a simulation runs; changes nothing. What the drawings of the product allow is written
down here a second time, on purpose: a move of the ledger that is not drawn is a violation, and in a long simulation
everything that is drawn must have happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from forms import IS_COMPILED

from harmonicio.master.backlog.ledger import Ledger
from harmonicio.master.backlog.stream_book import StreamBook
from harmonicio.master.directory import Directory
from harmonicio.master.leases import LeaseTable
from harmonicio.stream_connector.dispatch import Dispatch
from simulation.faults import KINDS

#: The drawing in :mod:`harmonicio.master.backlog.entry`.
LEDGER_MOVES = frozenset(
    {
        "STORING -> READY",
        "STORING -> DELAYED",
        "STORING -> DEAD",
        "STORING -> GONE",
        "READY -> RESERVED",
        "READY -> DEAD",
        "READY -> SHEDDING",
        "DELAYED -> READY",
        "DELAYED -> DEAD",
        "DELAYED -> SHEDDING",
        "RESERVED -> READY",
        "RESERVED -> DELAYED",
        "RESERVED -> SETTLING",
        "DEAD -> SETTLING",
        "RESERVED -> DEAD",
        "SETTLING -> GONE",
        "SHEDDING -> GONE",
        "DEAD -> UNBURYING",
        "UNBURYING -> READY",
        "UNBURYING -> GONE",
        "UNBURYING -> DEAD",
    }
)
#: Moves that are legal, and that no schedule brings about often enough to be asked for.
SELDOM = frozenset({"STORING -> DELAYED", "DELAYED -> DEAD", "DELAYED -> SHEDDING", "UNBURYING -> DEAD"})
EXPECTED = (
    *(f"ledger {move}" for move in sorted(LEDGER_MOVES - SELDOM)),
    *(
        f"delivery {move}"
        for move in (
            "waiting -> in_flight",
            "in_flight -> waiting",
            "in_flight -> done",
            "in_flight -> stored",
            "in_flight -> rejected",
            "waiting -> rejected",
            "stored -> done",
            "stored -> failed",
        )
    ),
    *(
        f"engine {move}"
        for move in (
            "unknown -> starting",
            "starting -> idle",
            "starting -> busy",
            "starting -> lost",
            "idle -> busy",
            "idle -> draining",
            "idle -> lost",
            "busy -> idle",
            "busy -> draining",
            "busy -> lost",
            "lost -> idle",
        )
    ),
    *(
        f"reservation ended: {kind}"
        for kind in (
            "done",
            "failed",
            "not taken",
            "no room at the engine",
            "cannot be processed",
            "its connection ended",
            "expired",
            "late",
        )
    ),
    *(
        f"lease ended: {kind}"
        for kind in ("released", "expired", "its engine went away", "its source does not know it", "revoked")
    ),
    "a connection timed out by itself",
    "a frame was torn",
    "a payload was received into a file",
    "a request of the control plane was lost",
    "an answer of the control plane was lost",
    "a request of the control plane came twice",
    "writes that a crash of the master lost",
    "engine killed by its controller",
    "fault: a connection is cut, and one end hears of it later",
    "fault: a stored payload is damaged",
    *(f"fault: {kind}" for kind in KINDS),
)


def missing(hits: Counter[str]) -> list[str]:
    """Return what is drawn and has not happened."""
    return [each for each in EXPECTED if not hits[each]]


class Hits:
    """The wrappers of one run."""

    def __init__(self, world: Any) -> None:
        self._world = world

    def substitutes(self) -> list[tuple[Any, str, Any]]:
        return [
            (StreamBook, "move", self._move(StreamBook.move)),
            (Directory, "report", self._reported(Directory.report)),
            *(
                ()
                if IS_COMPILED
                else (
                    (Dispatch, "_send", self._parcel(Dispatch._send, "waiting -> in_flight", 1)),
                    (Dispatch, "_return", self._parcel(Dispatch._return, "in_flight -> waiting", 0)),
                )
            ),
            *(
                (LeaseTable, name, self._counting(getattr(LeaseTable, name), f"lease ended: {kind}"))
                for name, kind in (
                    ("release", "released"),
                    ("expire", "expired"),
                    ("revoke_engine", "its engine went away"),
                    ("revoke_stream", "its stream was deleted or ordered"),
                    ("end_unknown", "its source does not know it"),
                    ("raise_epoch", "revoked"),
                )
            ),
            *(
                (Ledger, name, self._deciding(getattr(Ledger, name), kind))
                for name, kind in (
                    ("finish", "done"),
                    ("fail", "failed"),
                    ("release", "not taken"),
                    ("put_off", "no room at the engine"),
                    ("bury", "cannot be processed"),
                    ("release_all", "its connection ended"),
                    ("expire", "expired"),
                )
            ),
        ]

    def _move(self, real: Callable[..., Any]) -> Callable[..., Any]:
        world = self._world

        def move(book: Any, entry: Any, state: Any) -> Any:
            what = f"{entry.state.name} -> {state.name}"
            world.hits[f"ledger {what}"] += 1
            world.note(f"{entry.message_id!r} in the ledger: {what}")
            if what not in LEDGER_MOVES and entry.state is not state:
                world.violations.append(f"message {entry.message_id!r} went {what} in the ledger, which is not drawn")
            return real(book, entry, state)

        return move

    def _parcel(self, real: Callable[..., Any], what: str, at: int) -> Callable[..., Any]:
        world = self._world

        def wrapped(dispatch: Any, *given: Any) -> Any:
            world.hits[f"delivery {what}"] += 1
            if world.is_traced:
                world.note(f"{given[at].delivery.message_id!r} {what}{f' at {given[0].name}' if at else ''}")
            return real(dispatch, *given)

        return wrapped

    def _counting(self, real: Callable[..., Any], what: str) -> Callable[..., Any]:
        world = self._world

        def wrapped(*given: Any, **more: Any) -> Any:
            ended = real(*given, **more)
            if ended:
                world.hits[what] += len(ended)
            return ended

        return wrapped

    def _deciding(self, real: Callable[..., Any], kind: str) -> Callable[..., Any]:
        world = self._world

        def wrapped(*given: Any, **more: Any) -> Any:
            decided = real(*given, **more)
            for each in decided if isinstance(decided, list) else [decided]:
                what = "late" if each.verdict == "late" else kind
                world.hits[f"reservation ended: {what}"] += 1
                if world.is_traced:
                    world.note(f"{each.entry.message_id!r} its reservation ends: {what}; {each.verdict}")
            return decided

        return wrapped

    def _reported(self, real: Callable[..., Any]) -> Callable[..., Any]:
        world = self._world

        def report(directory: Any, *given: Any, **more: Any) -> Any:
            before = {name: engine.state for name, engine in directory._engines.items()}
            heard = real(directory, *given, **more)
            for name, known in directory._engines.items():
                was = before.get(name)
                if was is not known.state:
                    world.hits[f"engine {was or 'unknown'} -> {known.state}"] += 1
            return heard

        return report
