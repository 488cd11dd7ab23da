"""What each kind of fault does, and how it ends.

A fault chooses its victims when it begins, among what is there then, by its own seed. One that finds nobody looks again
for a while; then it has no effect and is not counted.

All faults end before the audit: what is stopped goes on, what is dead is started again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from simulation import administrators, processes, surroundings
from simulation.administrators import NobodyThere
from simulation.lasting import LASTING
from simulation.schedule import Fault
from simulation.victims import End

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
            processes.start_again(world, each, 0.1)
        for source in world.sources:
            if not source.is_running and not source.is_done:
                source.start()
        world.admin.spawn("declare", world.declare)
        # What an administrator has asked for before may still be under way.
        world.loop.after(UNDER_WAY_S, world.admin.spawn, "declare", world.declare)
        world.note("all faults have ended")


#: Kinds with their weights.
_TABLE: dict[str, tuple[float, Callable[[Any, random.Random, float], End]]] = {
    "a connection is cut": (4, surroundings.cut),
    "a connection is half open": (3, surroundings.half_open),
    "two hosts are parted": (3, surroundings.part),
    "two hosts are parted one way": (3, surroundings.part_one_way),
    "a host is parted from all": (2, surroundings.isolate),
    "delays": (2, surroundings.storm),
    "requests are lost, doubled and late": (3, surroundings.control_plane),
    "the disk is slow": (2, surroundings.slow_disk),
    "the disk fails": (4, surroundings.failing_disk),
    "the scratch volume is full": (3, surroundings.full_scratch),
    "a clock jumps": (2, surroundings.clock_jump),
    "the master crashes": (5, processes.master_crash),
    "the master is told to end": (2, processes.master_end),
    "the master is frozen": (2, processes.master_freeze),
    "a controller crashes": (3, processes.worker_crash),
    "a worker is told to end": (2, processes.worker_end),
    "a controller is frozen": (2, processes.controller_freeze),
    "an engine crashes": (4, processes.engine_crash),
    "an engine is told to end": (2, processes.engine_end),
    "an engine is frozen": (3, processes.engine_freeze),
    "an engine and its controller are frozen": (2, processes.engine_and_controller_freeze),
    "an engine is frozen beyond its reservation": (6, processes.freeze_beyond),
    "a host is suspended": (2, processes.suspend),
    "a worker's host loses its power": (2, processes.host_lost),
    "a source is killed": (2, processes.source_kill),
    "a source is frozen": (2, processes.source_freeze),
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
_BEGINNINGS = {name: begin for name, (_, begin) in (*_TABLE.items(), *LASTING.items())}
