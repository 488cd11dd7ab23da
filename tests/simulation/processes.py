"""What happens to processes and whole hosts. Each function begins a fault and returns its end."""

from __future__ import annotations

import random
from typing import Any

from harmonicio.master.backlog.reservations import engine_of
from simulation.administrators import NobodyThere
from simulation.loop import Process
from simulation.surroundings import isolated
from simulation.victims import End, an_engine, one_of, one_running

MAX_OUTAGE_S = 20.0


def start_again(world: Any, role: Any, delay_s: float) -> None:
    """Start a master or a worker once the one before is gone."""

    def start() -> None:
        if role.process is not None and not role.process.is_dead:
            if role.is_ending:
                world.loop.after(0.2, start)
        elif role.host.is_up:
            role.start()

    world.loop.after(delay_s, start)


def master_crash(world: Any, chance: random.Random, lasts_s: float) -> End:
    master = one_running(chance, [world.master])
    lost = master.crash()
    if lost:
        world.hits["writes that a crash of the master lost"] += lost
    if chance.random() < 0.3:
        _damage(world, chance)
    start_again(world, master, min(lasts_s, MAX_OUTAGE_S))
    return None


def _damage(world: Any, chance: random.Random) -> None:
    """A payload on the master's disk has another byte than was written."""
    rows = [row for row in world.master.disk.stable.rows.values() if row.payload]
    if not rows:
        return
    row = chance.choice(rows)
    at = chance.randrange(len(row.payload))
    row.payload = row.payload[:at] + bytes([row.payload[at] ^ 0x10]) + row.payload[at + 1 :]
    world.damaged.add(row.entry.message_id)
    world.hit("fault: a stored payload is damaged")
    world.note(f"{row.entry.message_id!r} is damaged on the disk")


def master_end(world: Any, chance: random.Random, lasts_s: float) -> End:
    master = one_running(chance, [world.master])
    master.end()
    start_again(world, master, min(lasts_s, MAX_OUTAGE_S))
    return None


def worker_crash(world: Any, chance: random.Random, lasts_s: float) -> End:
    worker = one_running(chance, world.workers)
    worker.process.die()
    start_again(world, worker, min(lasts_s, MAX_OUTAGE_S))
    return None


def worker_end(world: Any, chance: random.Random, lasts_s: float) -> End:
    worker = one_running(chance, world.workers)
    worker.end()
    start_again(world, worker, min(lasts_s, MAX_OUTAGE_S))
    return None


def engine_crash(world: Any, chance: random.Random, lasts_s: float) -> End:
    _, handle = an_engine(world, chance)
    handle.process.die(-11)
    return None


def engine_end(world: Any, chance: random.Random, lasts_s: float) -> End:
    """SIGTERM for an engine, by somebody who is not its controller."""
    _, handle = an_engine(world, chance)
    daemon = world.daemons.get(handle.spec.engine)
    if daemon is None or daemon.address is None:
        raise NobodyThere
    handle.process.spawn("signal", daemon.drain, chance.choice((0.5, 30.0)))
    return None


def _stopped(*processes: Process) -> End:
    for process in processes:
        process.stop()

    def end() -> None:
        for process in processes:
            process.cont()

    return end


def engine_freeze(world: Any, chance: random.Random, lasts_s: float) -> End:
    _, handle = an_engine(world, chance)
    return _stopped(handle.process)


def engine_and_controller_freeze(world: Any, chance: random.Random, lasts_s: float) -> End:
    """Nobody ends the engine: its reservations expire, and its outcomes come late."""
    worker, handle = an_engine(world, chance)
    if not worker.is_running:
        raise NobodyThere
    return _stopped(handle.process, worker.process)


def freeze_beyond(world: Any, chance: random.Random, lasts_s: float) -> End:
    """As before, when the engine has a message of the backlog, until that is given out again, or nearly so."""
    if not world.master.is_running:
        raise NobodyThere
    held = world.master.service.master.backlog._ledger._reservations
    holders = {engine_of(each.holder) for each in held._by_token.values()}
    worker, handle = an_engine(world, chance, holders)
    if not worker.is_running:
        raise NobodyThere
    thaw = _stopped(handle.process, worker.process)
    reservations = [each for each in held._by_token.values() if engine_of(each.holder) == handle.spec.engine]
    is_over: list[bool] = []
    later_s = chance.choice((0.0, 0.0, 0.05, 0.5, 3.0))

    def end() -> None:
        if not is_over:
            is_over.append(True)
            thaw()

    def look() -> None:
        if any(each.token in held._by_token for each in reservations):
            if not is_over:
                world.loop.after(0.02, look)
        else:
            world.loop.after(later_s, end)

    look()
    return end


def master_freeze(world: Any, chance: random.Random, lasts_s: float) -> End:
    return _stopped(one_running(chance, [world.master]).process)


def controller_freeze(world: Any, chance: random.Random, lasts_s: float) -> End:
    return _stopped(one_running(chance, world.workers).process)


def source_freeze(world: Any, chance: random.Random, lasts_s: float) -> End:
    return _stopped(one_running(chance, world.sources).process)


def suspend(world: Any, chance: random.Random, lasts_s: float) -> End:
    """A host stands still with all its processes, and its kernel confirms nothing."""
    host = chance.choice([each.host for each in (world.master, *world.workers, *world.sources)])
    if not host.is_up:
        raise NobodyThere
    host.suspend()
    ended = isolated(world, host)

    def end() -> None:
        host.resume()
        if ended is not None:
            ended()

    return end


def host_lost(world: Any, chance: random.Random, lasts_s: float) -> End:
    """A worker's host loses its power, and is started again; nobody is told."""
    worker = one_of(chance, [each for each in world.workers if each.host.is_up and not each.host.suspensions])
    worker.host.is_up = False
    world.network.vanish(worker.host)
    for process in list(worker.host.processes):
        process.die()

    def end() -> None:
        worker.host.is_up = True
        start_again(world, worker, 0.1)

    return end


def source_kill(world: Any, chance: random.Random, lasts_s: float) -> End:
    source = one_running(chance, world.sources)
    source.process.die()

    def start() -> None:
        if not source.is_running and not source.is_done:
            source.start()
