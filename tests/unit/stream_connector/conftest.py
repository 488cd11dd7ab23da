"""What tests of shared memory share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harmonicio.stream_connector.arena_slots import ArenaSlots


@pytest.fixture
def slots() -> Iterator[ArenaSlots]:
    """An arena of 1 MiB, closed in the end."""
    made = ArenaSlots(2**20, 2**30)
    yield made
    made.close()
