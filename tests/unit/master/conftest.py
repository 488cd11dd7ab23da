"""Backlogs as most tests of them have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benches.backlog import Desk, HeldStore
from harmonicio.master.backlog.base import StoreLimits
from harmonicio.master.backlog.memory import MemoryStore
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.open_store import OpenStore


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk(MemoryStore())
    yield desk
    desk.backlog.close()


@pytest.fixture
def held() -> Iterator[tuple[Desk, HeldStore]]:
    store = HeldStore()
    desk = Desk(store)
    yield desk, store
    desk.backlog.close()


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Callable[[], OpenStore]]:
    """Open the SQLite store in the folder ``backlog``, each time anew; payloads are read from the disk."""
    opened: list[OpenStore] = []

    def reopen() -> OpenStore:
        for each in opened:
            each.store.close()
        opened.append(OpenStore(SqliteStore(tmp_path / "backlog", StoreLimits(hot_cache_bytes=0, ballast_rest_s=0.0))))
        return opened[-1]

    yield reopen
    for each in opened:
        each.store.close()
