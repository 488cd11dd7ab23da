"""What is looked at when all faults have ended: is everything at rest, where is each message, are the gauges zero?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benches.auditor import DEAD, PROCESSED, SHED, WAITING
from harmonicio.master.backlog.entry import Entry, State
from simulation.effects import digest_of

FINISHED = (State.DEAD, State.GONE)


def _backlog(world: Any) -> Any:
    return world.master.service.master.backlog


def entries_of(world: Any) -> Iterator[Entry]:
    """Return the messages that the master knows of."""
    return _entries(_backlog(world))


def _entries(backlog: Any) -> Iterator[Entry]:
    for _, book in sorted(backlog._ledger.books._by_stream.items()):
        yield from book.ids.values()


def is_at_rest(world: Any) -> bool:
    return next(what_is_left(world), None) is None


def what_is_left(world: Any) -> Iterator[str]:
    """Say what is not at rest."""
    for source in world.sources:
        if not source.is_done:
            yield f"source {source.name} is not done: {source.connector!r}"
    if not world.master.is_running or world.master.service is None:
        yield "the master does not run"
        return
    for entry in _entries(_backlog(world)):
        if entry.state not in FINISHED:
            yield f"message {entry.message_id!r} of {entry.stream} is {entry.state.name} at the master"
    for engine, daemon in _daemons(world):
        if daemon._slots.in_use:
            yield f"engine {engine} runs something: {daemon._slots!r}"


def _daemons(world: Any) -> Iterator[tuple[str, Any]]:
    for worker in world.workers:
        for handle in worker.running():
            daemon = world.daemons.get(handle.spec.engine)
            if daemon is not None:
                yield handle.spec.engine, daemon


def audit(world: Any) -> None:
    """Tell the auditor where everything is."""
    auditor = world.auditor
    backlog = _backlog(world)
    shed = [record.message_id for record in world.master.disk.stable.shed]
    for name in world.effects.rows:
        auditor.found(name, PROCESSED)
        if name in shed or name in world.effects.sought_in_vain:
            auditor.cut_short(name)
    world.effects.audit()
    for name in shed:
        auditor.found(name, SHED)
    dead_bytes = 0
    for entry in _entries(backlog):
        auditor.found(entry.message_id, DEAD if entry.state is State.DEAD else WAITING)
        row = world.master.disk.stable.rows.get(entry.sequence)
        auditor.gauge(f"dead letter {entry.message_id!r} without a row on the disk", row is None)
        if row is not None and entry.message_id not in world.damaged:
            auditor.kept(entry.message_id, digest_of(row.payload))
        dead_bytes += entry.cost_bytes
    _read_gauges(world, backlog, dead_bytes)


def _read_gauges(world: Any, backlog: Any, dead_bytes: int) -> None:
    gauge = world.auditor.gauge
    budget = backlog._ledger.books.budget
    gauge("bytes of the backlog beyond its dead letters", budget.used_bytes - dead_bytes)
    gauge("reservations", len(backlog._ledger._reservations))
    gauge("arrivals at the backlog", len(backlog._reception._arrivals))
    gauge("arriving bytes in memory", backlog._reception._memory_bytes)
    gauge("answers for messages that are stored", len(backlog._reception._also_waiting))
    gauge("writes to be repeated", len(backlog._clerk._to_repeat))
    gauge("dead letters to be written", len(backlog._clerk._burying))
    gauge("leases after the end of all sources", len(world.master.service.master._state.leases))
    known = {entry.sequence for entry in _entries(backlog)}
    gauge("rows on the disk that the ledger does not know", len(world.master.disk.stable.rows.keys() - known))
    for source in world.sources:
        gauge(f"bytes in the budget of {source.name}", source.connector._exchange._dispatch.used_bytes)
        gauge(f"messages that {source.name} could not make safe", len(source.undelivered))
    for engine, daemon in _daemons(world):
        gauge(f"payload bytes of engine {engine}", daemon._payloads.budget.held_bytes)
        gauge(f"handlers of engine {engine}", daemon._slots.in_use)
        for session in daemon._roster._entries:
            gauge(f"unanswered messages at engine {engine}", session.peer.credit.outstanding)
