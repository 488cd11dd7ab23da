"""Backlogs as most tests of them have it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benches.backlog import Desk, HeldStore
from harmonicio.master.backlog.memory import MemoryStore


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
