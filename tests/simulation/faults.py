"""What each kind of fault does, and how it ends.

A fault chooses its victims when it begins, among what is there then, by its own seed. One that finds nobody looks again
for a while; then it has no effect and is not counted.

All faults end before the audit: what is stopped goes on, what is dead is started again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any

from harmonicio.master.backlog.reservations import engine_of
from simulation import administrators
from simulation.administrators import NobodyThere
from simulation.disk import NO_ROOM
from simulation.loop import Host, Process
from simulation.schedule import Fault

#: What ends a fault; what has no end has none.
End = Callable[[], None] | None
MAX_OUTAGE_S = 20.0
UNDER_WAY_S = 20.0
#: Who finds nobody looks again so often, and for so long.
LOOKS_AGAIN_S, LOOKS_FOR_S = 0.1, 15.0
#: At most so long an engine is frozen that waits for the end of its reservation.
BEYOND_S = 50.0


class Faults:
    """The faults of one run."""

    def __init__(self, world: Any) -> None:
        self._world = world
        self._ends: dict[int, Callable[[], None]] = {}
        self.are_over = False

    def plan(self, faults: tuple[Fault, ...]) -> None:
        for number, fault in enumerate(faults):
            self._world.loop.at(fault.at_s, self._begin, number, fault)

    def _begin(self, number: int, fault: Fault) -> None:
        if self.are_over:
            return
        loop = self._world.loop
        try:
            end = _BEGINNINGS[fault.kind](self._world, random.Random(fault.seed), fault.lasts_s)
        except NobodyThere:
            if loop.now < fault.at_s + LOOKS_FOR_S:
                loop.after(LOOKS_AGAIN_S, self._begin, number, fault)
            return
        self._world.hit(f"fault: {fault.kind}")
        if end is not None:
            self._ends[number] = end
            loop.after(_LASTS_S.get(fault.kind, fault.lasts_s), self._end, number)

    def _end(self, number: int) -> None:
        end = self._ends.pop(number, None)
        if end is not None:
            end()

    def end_all(self) -> None:
        """All is well from now on."""
        self.are_over = True
        for number in list(self._ends):
            self._end(number)
        world = self._world
        for each in (world.master, *world.workers):
            _start_again(world, each, 0.1)
        for source in world.sources:
            if not source.is_running and not source.is_done:
                source.start()
        world.admin.spawn("declare", world.declare)
        # What an administrator has asked for before may still be under way.
        world.loop.after(UNDER_WAY_S, world.admin.spawn, "declare", world.declare)
        world.note("all faults have ended")


# ── whom ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _one(chance: random.Random, among: list[Any]) -> Any:
    if not among:
        raise NobodyThere
    return chance.choice(among)


def _engine(world: Any, chance: random.Random, names: Collection[str] | None = None) -> tuple[Any, Any]:
    """Return the worker's host and the handle of an engine that lives; where names are given, one of these."""
    living = [(worker, handle) for worker in world.workers for handle in worker.running()]
    return _one(chance, [each for each in living if names is None or each[1].spec.engine in names])


def _hosts(world: Any, chance: random.Random) -> tuple[Host, Host]:
    """Return two hosts that have to do with each other."""
    kinds = {
        "m": [world.master.host],
        "w": [each.host for each in world.workers],
        "s": [each.host for each in world.sources],
    }
    one, other = chance.choice(("mw", "ms", "ws"))
    pair = [chance.choice(kinds[one]), chance.choice(kinds[other])]
    chance.shuffle(pair)
    return pair[0], pair[1]


def _running(chance: random.Random, among: list[Any]) -> Any:
    return _one(chance, [each for each in among if each.is_running])


# ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _cut(world: Any, chance: random.Random, lasts_s: float) -> End:
    ends = list(_one(chance, list(world.network.connections.values())))
    chance.shuffle(ends)
    ends[1].tear()
    ends[0].reset("Connection reset by peer")
    if chance.random() < 0.5:
        ends[1].reset("Connection reset by peer")
    else:
        world.hit("fault: a connection is cut, and one end hears of it later")
        world.loop.after(min(lasts_s, 10.0), ends[1].reset, "Connection reset by peer")
    return None


def _half_open(world: Any, chance: random.Random, lasts_s: float) -> End:
    ends = list(_one(chance, list(world.network.connections.values())))
    chance.shuffle(ends)
    ends[0].fall_silent()
    return None


def _part(world: Any, chance: random.Random, lasts_s: float) -> End:
    one, other = _hosts(world, chance)
    return _parted(world, [(one, other), (other, one)])


def _part_one_way(world: Any, chance: random.Random, lasts_s: float) -> End:
    return _parted(world, [_hosts(world, chance)])


def _isolate(world: Any, chance: random.Random, lasts_s: float) -> End:
    """A host is lost to all others, and comes back with the state that it had."""
    host = chance.choice([each.host for each in (world.master, *world.workers, *world.sources)])
    return _isolated(world, host)


def _parted(world: Any, pairs: list[tuple[Host, Host]]) -> End:
    for one, other in pairs:
        world.network.part(one.name, other.name)

    def end() -> None:
        for one, other in pairs:
            world.network.join(one.name, other.name)

    return end


def _storm(world: Any, chance: random.Random, lasts_s: float) -> End:
    network = world.network
    network.storms.append((0.0, chance.choice((0.05, 0.5, 2.0))))
    return network.storms.pop


def _control_plane(world: Any, chance: random.Random, lasts_s: float) -> End:
    web, share = world.web, chance.choice((0.1, 0.3, 0.6))
    web.loses_request, web.loses_answer, web.doubles = share / 2, share / 2, share

    def end() -> None:
        web.loses_request = web.loses_answer = web.doubles = 0.0

    return end


# ── disks and clocks ─────────────────────────────────────────────────────────────────────────────────────────────────


def _slow_disk(world: Any, chance: random.Random, lasts_s: float) -> End:
    master = world.master
    master.sync_s = (0.05, chance.choice((0.3, 3.0)))

    def end() -> None:
        master.sync_s = world.plan.sync_s

    return end


def _failing_disk(world: Any, chance: random.Random, lasts_s: float) -> End:
    disk = world.master.disk
    disk.trouble = chance.choice((NO_ROOM, "Input/output error"))

    def end() -> None:
        disk.trouble = ""

    return end


def _full_scratch(world: Any, chance: random.Random, lasts_s: float) -> End:
    workers = world.workers if chance.random() < 0.5 else [chance.choice(world.workers)]
    for worker in workers:
        worker.is_scratch_full = True

    def end() -> None:
        for worker in workers:
            worker.is_scratch_full = False

    return end


def _clock_jump(world: Any, chance: random.Random, lasts_s: float) -> End:
    host = chance.choice([each.host for each in (world.master, *world.workers, *world.sources)])
    jump_s = chance.choice((-3600.0, 3600.0))
    host.wall_offset_s += jump_s

    def end() -> None:
        host.wall_offset_s -= jump_s

    return end


# ── processes and hosts ──────────────────────────────────────────────────────────────────────────────────────────────


def _start_again(world: Any, role: Any, delay_s: float) -> None:
    """Start a master or a worker once the one before is gone."""

    def start() -> None:
        if role.process is not None and not role.process.is_dead:
            if role.is_ending:
                world.loop.after(0.2, start)
        elif role.host.is_up:
            role.start()

    world.loop.after(delay_s, start)


def _master_crash(world: Any, chance: random.Random, lasts_s: float) -> End:
    master = _running(chance, [world.master])
    lost = master.crash()
    if lost:
        world.hits["writes that a crash of the master lost"] += lost
    if chance.random() < 0.3:
        _damage(world, chance)
    _start_again(world, master, min(lasts_s, MAX_OUTAGE_S))
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


def _master_end(world: Any, chance: random.Random, lasts_s: float) -> End:
    master = _running(chance, [world.master])
    master.end()
    _start_again(world, master, min(lasts_s, MAX_OUTAGE_S))
    return None


def _worker_crash(world: Any, chance: random.Random, lasts_s: float) -> End:
    worker = _running(chance, world.workers)
    worker.process.die()
    _start_again(world, worker, min(lasts_s, MAX_OUTAGE_S))
    return None


def _worker_end(world: Any, chance: random.Random, lasts_s: float) -> End:
    worker = _running(chance, world.workers)
    worker.end()
    _start_again(world, worker, min(lasts_s, MAX_OUTAGE_S))
    return None


def _engine_crash(world: Any, chance: random.Random, lasts_s: float) -> End:
    _, handle = _engine(world, chance)
    handle.process.die(-11)
    return None


def _engine_end(world: Any, chance: random.Random, lasts_s: float) -> End:
    """SIGTERM for an engine, by somebody who is not its controller."""
    _, handle = _engine(world, chance)
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


def _engine_freeze(world: Any, chance: random.Random, lasts_s: float) -> End:
    _, handle = _engine(world, chance)
    return _stopped(handle.process)


def _engine_and_controller_freeze(world: Any, chance: random.Random, lasts_s: float) -> End:
    """Nobody ends the engine: its reservations expire, and its outcomes come late."""
    worker, handle = _engine(world, chance)
    if not worker.is_running:
        raise NobodyThere
    return _stopped(handle.process, worker.process)


def _freeze_beyond(world: Any, chance: random.Random, lasts_s: float) -> End:
    """As before, when the engine has a message of the backlog, until that is given out again, or nearly so."""
    if not world.master.is_running:
        raise NobodyThere
    held = world.master.service.master.backlog._ledger._reservations
    holders = {engine_of(each.holder) for each in held._by_token.values()}
    worker, handle = _engine(world, chance, holders)
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


def _master_freeze(world: Any, chance: random.Random, lasts_s: float) -> End:
    return _stopped(_running(chance, [world.master]).process)


def _controller_freeze(world: Any, chance: random.Random, lasts_s: float) -> End:
    return _stopped(_running(chance, world.workers).process)


def _source_freeze(world: Any, chance: random.Random, lasts_s: float) -> End:
    return _stopped(_running(chance, world.sources).process)


def _suspend(world: Any, chance: random.Random, lasts_s: float) -> End:
    """A host stands still with all its processes, and its kernel confirms nothing."""
    host = chance.choice([each.host for each in (world.master, *world.workers, *world.sources)])
    if not host.is_up:
        raise NobodyThere
    host.suspend()
    ended = _isolated(world, host)

    def end() -> None:
        host.resume()
        if ended is not None:
            ended()

    return end


def _isolated(world: Any, host: Host) -> End:
    others = [each for each in world.network.hosts.values() if each is not host]
    return _parted(world, [(host, each) for each in others] + [(each, host) for each in others])


def _host_lost(world: Any, chance: random.Random, lasts_s: float) -> End:
    """A worker's host loses its power, and is started again; nobody is told."""
    worker = _one(chance, [each for each in world.workers if each.host.is_up and not each.host.suspensions])
    worker.host.is_up = False
    world.network.vanish(worker.host)
    for process in list(worker.host.processes):
        process.die()

    def end() -> None:
        worker.host.is_up = True
        _start_again(world, worker, 0.1)

    return end


def _source_kill(world: Any, chance: random.Random, lasts_s: float) -> End:
    source = _running(chance, world.sources)
    source.process.die()

    def start() -> None:
        if not source.is_running and not source.is_done:
            source.start()

    world.loop.after(min(lasts_s, MAX_OUTAGE_S), start)
    return None


#: Kinds with their weights.
_TABLE: dict[str, tuple[float, Callable[[Any, random.Random, float], End]]] = {
    "a connection is cut": (4, _cut),
    "a connection is half open": (3, _half_open),
    "two hosts are parted": (3, _part),
    "two hosts are parted one way": (3, _part_one_way),
    "a host is parted from all": (2, _isolate),
    "delays": (2, _storm),
    "requests are lost, doubled and late": (3, _control_plane),
    "the disk is slow": (2, _slow_disk),
    "the disk fails": (4, _failing_disk),
    "the scratch volume is full": (3, _full_scratch),
    "a clock jumps": (2, _clock_jump),
    "the master crashes": (5, _master_crash),
    "the master is told to end": (2, _master_end),
    "the master is frozen": (2, _master_freeze),
    "a controller crashes": (3, _worker_crash),
    "a worker is told to end": (2, _worker_end),
    "a controller is frozen": (2, _controller_freeze),
    "an engine crashes": (4, _engine_crash),
    "an engine is told to end": (2, _engine_end),
    "an engine is frozen": (3, _engine_freeze),
    "an engine and its controller are frozen": (2, _engine_and_controller_freeze),
    "an engine is frozen beyond its reservation": (6, _freeze_beyond),
    "a host is suspended": (2, _suspend),
    "a worker's host loses its power": (2, _host_lost),
    "a source is killed": (2, _source_kill),
    "a source is frozen": (2, _source_freeze),
    "a stream is scaled": (2, administrators.scale),
    "a stream is declared anew": (2, administrators.declare_anew),
    "all leases are revoked": (2, administrators.revoke),
    "dead letters are replayed": (3, administrators.replay),
    "dead letters are purged": (3, administrators.purge),
    "messages get other priorities": (3, administrators.prioritise),
}
#: Those which last otherwise than their schedule says.
_LASTS_S = {"an engine is frozen beyond its reservation": BEYOND_S}
KINDS = {name: float(weight) for name, (weight, _) in _TABLE.items()}
_BEGINNINGS = {name: begin for name, (_, begin) in _TABLE.items()}
