"""The simulated disk keeps the contract of backlog stores."""

from __future__ import annotations

from pathlib import Path

from harmonicio.core.clock import Clock
from harmonicio.master.backlog.base import BacklogStore, StoreLimits
from harmonicio.testing.backlog_store_suite import BacklogStoreSuite
from simulation.disk import Disk, SimulatedStore


class TestSimulatedStore(BacklogStoreSuite):
    disks: dict[Path, Disk]

    def make(self, folder: Path, limits: StoreLimits, clock: Clock) -> BacklogStore:
        if not hasattr(self, "disks"):
            self.disks = {}
        disk = self.disks.setdefault(folder, Disk(lambda _, call: call()))
        return SimulatedStore(disk, limits, clock)
