"""The in-memory store keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from harmonicio.core.clock import Clock
from harmonicio.master.backlog.base import BacklogStore, StoreLimits
from harmonicio.master.backlog.memory import MemoryStore
from harmonicio.testing.backlog_store_suite import BacklogStoreSuite


class TestMemoryStore(BacklogStoreSuite):
    @pytest.fixture(autouse=True)
    def _one_for_each_folder(self) -> None:
        self._made: dict[Path, MemoryStore] = {}

    def make(self, folder: Path, limits: StoreLimits, clock: Clock) -> BacklogStore:
        return self._made.setdefault(folder, MemoryStore(limits, clock))
