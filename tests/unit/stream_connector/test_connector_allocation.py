"""Allocations: slots that their source writes into, and what of them is given back when."""

from __future__ import annotations

import array
import mmap
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from harmonicio.core.errors import InvalidInput, NotFound
from harmonicio.stream_connector.allocation import Allocation, is_plain_memory
from harmonicio.stream_connector.arena_slots import ArenaSlot, ArenaSlots
from harmonicio.stream_connector.delivery import Awaiting, Delivery

PAGE = 4096


def test_an_allocation_is_given_back_by_its_block_by_itself_or_by_nobody_having_it(slots: ArenaSlots) -> None:
    with Allocation(slots, 100) as allocation:
        allocation.view[:5] = b"hello"
        assert slots.used_bytes == PAGE
    assert slots.used_bytes == 0
    other = Allocation(slots, 100)
    other.release()
    other.release()
    assert slots.used_bytes == 0
    forgotten = Allocation(slots, 100)
    assert slots.used_bytes == PAGE
    del forgotten
    assert slots.used_bytes == 0


@pytest.mark.parametrize("is_shared", [True, False])
def test_what_was_given_back_cannot_be_written_or_sent(slots: ArenaSlots, is_shared: bool) -> None:
    allocation = Allocation(slots if is_shared else ArenaSlots(0, 1), 100)
    assert allocation.is_shared == is_shared
    allocation.release()
    with pytest.raises(ValueError, match="released"):
        allocation.view[:5] = b"hello"
    with pytest.raises(InvalidInput, match="sent or given back"):
        allocation.send_by(lambda content, slot: pytest.fail("it cannot be sent"))


def test_a_slot_that_its_source_still_looks_at_is_not_used_again(slots: ArenaSlots) -> None:
    allocation = Allocation(slots, 100)
    pixels = np.frombuffer(allocation.view, dtype="u2")
    allocation.release()
    del allocation
    assert slots.used_bytes == PAGE
    other = Allocation(slots, 100)
    other.view[:] = b"x" * 100
    pixels[:] = 7
    assert bytes(other.view) == b"x" * 100
    del pixels
    assert slots.used_bytes == PAGE
    other.release()


def test_a_refused_message_leaves_the_allocation_to_its_source(slots: ArenaSlots) -> None:
    allocation = Allocation(slots, 100)
    delivery = Delivery(cast(Awaiting, None), "m-1", 100)

    def refuse(content: memoryview, slot: ArenaSlot | None) -> Delivery:
        raise NotFound("There is no such stream.")

    def take(content: memoryview, slot: ArenaSlot | None) -> Delivery:
        assert content.readonly
        assert slot is not None
        with pytest.raises(InvalidInput, match="sent or given back"):
            allocation.send_by(take)
        allocation.release()
        return delivery

    with pytest.raises(NotFound):
        allocation.send_by(refuse)
    allocation.view[:5] = b"hello"
    assert allocation.send_by(take) is delivery
    with pytest.raises(InvalidInput, match="sent or given back"):
        allocation.send_by(take)
    assert slots.used_bytes == 0


def test_after_an_interruption_it_may_have_been_sent(slots: ArenaSlots) -> None:
    allocation = Allocation(slots, 100)

    def interrupt(content: memoryview, slot: ArenaSlot | None) -> Delivery:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        allocation.send_by(interrupt)
    with pytest.raises(ValueError, match="released"):
        allocation.view[:5] = b"hello"


# ── what may be copied here ──────────────────────────────────────────────────────────────────────────────────────────


def test_memory_of_this_process_may_be_copied_and_files_that_are_mapped_may_not(tmp_path: Path) -> None:
    path = tmp_path / "pixels"
    path.write_bytes(bytes(8192))
    own = np.arange(1000, dtype="u2")
    for plain in (
        b"x",
        memoryview(b"xyz")[1:],
        memoryview(own),
        memoryview(own[3:].reshape(-1)),
        array.array("i", [1]),
    ):
        assert is_plain_memory(plain)
    assert is_plain_memory(memoryview(np.frombuffer(bytearray(100), dtype="u1")[5:]))
    mapped = np.memmap(path, mode="r")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        for foreign in (memoryview(mapping), memoryview(mapped), memoryview(np.asarray(mapped)[5:])):
            assert not is_plain_memory(foreign)
            foreign.release()
