"""Counts what happened inside the product: moves of the ledger, ends of reservations and leases, states of engines.

Wraps methods of the product while a simulation runs; changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harmonicio.master.backlog.ledger import Ledger
from harmonicio.master.backlog.stream_book import StreamBook
from harmonicio.master.directory import Directory
from harmonicio.master.leases import LeaseTable
from harmonicio.stream_connector.dispatch import Dispatch


class Hits:
    """The wrappers of one run."""

    def __init__(self, world: Any) -> None:
        self._world = world

    def substitutes(self) -> list[tuple[Any, str, Any]]:
        return [
            (StreamBook, "move", self._move(StreamBook.move)),
            (Directory, "report", self._reported(Directory.report)),
            (Dispatch, "_send", self._parcel(Dispatch._send, "waiting -> in_flight", 1)),
            (Dispatch, "_return", self._parcel(Dispatch._return, "in_flight -> waiting", 0)),
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
            world.hits[f"ledger {entry.state.name} -> {state.name}"] += 1
            world.note(f"{entry.message_id!r} in the ledger: {entry.state.name} -> {state.name}")
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
