"""What happens around processes: to networks, disks and clocks. Each function begins a fault and returns its end."""

from __future__ import annotations

import random
from typing import Any

from simulation.disk import NO_ROOM
from simulation.loop import Host
from simulation.victims import End, one_of, two_hosts

# ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────────


def cut(world: Any, chance: random.Random, lasts_s: float) -> End:
    ends = list(one_of(chance, list(world.network.connections.values())))
    chance.shuffle(ends)
    ends[1].tear()
    ends[0].reset("Connection reset by peer")
    if chance.random() < 0.5:
        ends[1].reset("Connection reset by peer")
    else:
        world.hit("fault: a connection is cut, and one end hears of it later")
        world.loop.after(min(lasts_s, 10.0), ends[1].reset, "Connection reset by peer")
    return None


def half_open(world: Any, chance: random.Random, lasts_s: float) -> End:
    ends = list(one_of(chance, list(world.network.connections.values())))
    chance.shuffle(ends)
    ends[0].fall_silent()
    return None


def part(world: Any, chance: random.Random, lasts_s: float) -> End:
    one, other = two_hosts(world, chance)
    return _parted(world, [(one, other), (other, one)])


def part_one_way(world: Any, chance: random.Random, lasts_s: float) -> End:
    return _parted(world, [two_hosts(world, chance)])


def isolate(world: Any, chance: random.Random, lasts_s: float) -> End:
    """A host is lost to all others, and comes back with the state that it had."""
    host = chance.choice([each.host for each in (world.master, *world.workers, *world.sources)])
    return isolated(world, host)


def _parted(world: Any, pairs: list[tuple[Host, Host]]) -> End:
    for one, other in pairs:
        world.network.part(one.name, other.name)

    def end() -> None:
        for one, other in pairs:
            world.network.join(one.name, other.name)

    return end


def storm(world: Any, chance: random.Random, lasts_s: float) -> End:
    network = world.network
    network.storms.append((0.0, chance.choice((0.05, 0.5, 2.0))))
    return network.storms.pop


def control_plane(world: Any, chance: random.Random, lasts_s: float) -> End:
    web, share = world.web, chance.choice((0.1, 0.3, 0.6))
    web.loses_request, web.loses_answer, web.doubles = share / 2, share / 2, share

    def end() -> None:
        web.loses_request = web.loses_answer = web.doubles = 0.0

    return end


def isolated(world: Any, host: Host) -> End:
    others = [each for each in world.network.hosts.values() if each is not host]
    return _parted(world, [(host, each) for each in others] + [(each, host) for each in others])


# ── disks and clocks ─────────────────────────────────────────────────────────────────────────────────────────────────


def slow_disk(world: Any, chance: random.Random, lasts_s: float) -> End:
    master = world.master
    master.sync_s = (0.05, chance.choice((0.3, 3.0)))

    def end() -> None:
        master.sync_s = world.plan.sync_s

    return end


def failing_disk(world: Any, chance: random.Random, lasts_s: float) -> End:
    disk = world.master.disk
    disk.trouble = chance.choice((NO_ROOM, "Input/output error"))

    def end() -> None:
        disk.trouble = ""

    return end


def full_scratch(world: Any, chance: random.Random, lasts_s: float) -> End:
    workers = world.workers if chance.random() < 0.5 else [chance.choice(world.workers)]
    for worker in workers:
        worker.is_scratch_full = True

    def end() -> None:
        for worker in workers:
            worker.is_scratch_full = False

    return end


def clock_jump(world: Any, chance: random.Random, lasts_s: float) -> End:
    host = chance.choice([each.host for each in (world.master, *world.workers, *world.sources)])
    jump_s = chance.choice((-3600.0, 3600.0))
    host.wall_offset_s += jump_s

    def end() -> None:
        host.wall_offset_s -= jump_s

    return end
