"""Faults that last for minutes or hours. They are not drawn: each has a run of its own (``--lasting``)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from simulation.processes import start_again
from simulation.schedule import Fault, Schedule
from simulation.surroundings import isolated
from simulation.victims import End, one_of

BEGINS_AT_S = 3.0


def master_away(world: Any, chance: random.Random, lasts_s: float) -> End:
    world.master.crash()
    return lambda: start_again(world, world.master, 0.0)


def workers_away(world: Any, chance: random.Random, lasts_s: float) -> End:
    """No engine runs anywhere."""
    for worker in world.workers:
        worker.end()

    def end() -> None:
        for worker in world.workers:
            start_again(world, worker, 0.0)

    return end


def worker_parted(world: Any, chance: random.Random, lasts_s: float) -> End:
    """A host with engines is lost to everybody, and comes back with the state that it had."""
    return isolated(world, one_of(chance, world.workers).host)


def all_suspended(world: Any, chance: random.Random, lasts_s: float) -> End:
    """Every host stands still with all its processes; their clocks go on, as those of machines that were asleep."""
    hosts = list(world.network.hosts.values())
    for host in hosts:
        host.suspend()

    def end() -> None:
        for host in hosts:
            host.resume()

    return end


def disk_away(world: Any, chance: random.Random, lasts_s: float) -> End:
    disk = world.master.disk
    disk.trouble = "Input/output error"

    def end() -> None:
        disk.trouble = ""

    return end


#: Each with how long it lasts.
LASTING: dict[str, tuple[float, Callable[[Any, random.Random, float], End]]] = {
    "the master is away": (600.0, master_away),
    "no engine runs": (3600.0, workers_away),
    "a worker's host is lost and found": (300.0, worker_parted),
    "the whole system stands still": (600.0, all_suspended),
    "the master's disk fails": (600.0, disk_away),
}


def lasting(plan: Schedule, name: str) -> Schedule:
    """Return the schedule with this fault as its only one."""
    lasts_s, _ = LASTING[name]
    fault = Fault(name, BEGINS_AT_S, lasts_s, plan.seed)
    return replace(plan, faults=(fault,), faults_until_s=BEGINS_AT_S + lasts_s + 1.0)
