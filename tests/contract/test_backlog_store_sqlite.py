"""The SQLite store keeps the contract, with and without a cache in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harmonicio.core.clock import Clock
from harmonicio.master.backlog.base import BacklogStore, StoreLimits
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.backlog_store_suite import BacklogStoreSuite


class TestSqliteStore(BacklogStoreSuite):
    def make(self, folder: Path, limits: StoreLimits, clock: Clock) -> BacklogStore:
        return SqliteStore(folder, limits, clock)


class TestSqliteStoreWithoutCache(TestSqliteStore):
    limits = replace(TestSqliteStore.limits, hot_cache_bytes=0, pending_bytes=1)
