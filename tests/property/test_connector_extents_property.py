"""Parts of shared memory: never two at the same place, never outside, and all of it is there again in the end."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonicio.stream_connector.extents import Extents, capacity_of

PAGE = 4096
#: What is done next: a size to take, or which of those that are taken to give back.
STEPS = st.lists(st.one_of(st.integers(1, 300 * 1024), st.integers(-40, -1)), max_size=120)


@given(STEPS, st.integers(1, 256))
def test_parts_never_overlap_and_nothing_is_lost(steps: list[int], pages: int) -> None:
    extents, taken = Extents(pages * PAGE), dict[int, int]()
    for step in steps:
        if step > 0:
            capacity = capacity_of(step)
            offset = extents.take(capacity)
            if offset is None:
                continue
            assert offset % PAGE == 0
            assert offset + capacity <= pages * PAGE
            assert all(offset + capacity <= other or other + its <= offset for other, its in taken.items())
            taken[offset] = capacity
        elif taken:
            offset = list(taken)[step % len(taken)]
            extents.give_back(offset, taken.pop(offset))
        assert extents.free_bytes == pages * PAGE - sum(taken.values())
    for offset, capacity in taken.items():
        extents.give_back(offset, capacity)
    whole = largest_of(pages * PAGE)
    assert extents.take(capacity_of(whole)) is not None, "what is free is merged until it is one part again"


@given(st.integers(1, 2**40))
def test_a_capacity_is_at_most_an_eighth_larger_or_fills_a_page(size_bytes: int) -> None:
    capacity = capacity_of(size_bytes)
    assert capacity % PAGE == 0
    assert size_bytes <= capacity < size_bytes + max(PAGE, size_bytes / 8 + 1)
    assert capacity_of(capacity) == capacity


def test_what_was_given_back_last_is_taken_first() -> None:
    extents = Extents(100 * PAGE)
    parts = [extents.take(PAGE) for _ in range(3)]
    for offset in parts:
        assert offset is not None
        extents.give_back(offset, PAGE)
    assert [extents.take(PAGE) for _ in range(3)] == parts[::-1]


@pytest.mark.parametrize("under_way", [6, 16, 64])
def test_memory_that_was_never_used_is_left_alone_while_there_is_other(under_way: int) -> None:
    chance, extents = random.Random(under_way), Extents(2**30)
    taken: list[tuple[int, int]] = []
    most_bytes = 0
    for _ in range(20_000):
        capacity = capacity_of(int(20_000 * 100 ** chance.random()))
        offset = extents.take(capacity)
        assert offset is not None
        taken.append((offset, capacity))
        most_bytes = max(most_bytes, extents.total_bytes - extents.free_bytes)
        if len(taken) > under_way:
            extents.give_back(*taken.pop(chance.randrange(4)))
    assert extents.fresh_offset < 1.8 * most_bytes


def largest_of(total_bytes: int) -> int:
    """Return the largest size whose part is not larger than that."""
    return max(size for size in range(PAGE, total_bytes + 1, PAGE) if capacity_of(size) <= total_bytes)
