"""Memory for payloads: bounded, reused only when nobody looks at it, in a file when large."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonicio.core.errors import ConnectionEnded, StorageError
from harmonicio.engine.payloads import SMALLEST_CAPACITY, BufferPool, ByteBudget, PayloadStore, capacity_for
from harmonicio.testing.waiting import wait_until

MIB = 1024**2


@pytest.fixture
def store(tmp_path: Path) -> PayloadStore:
    return PayloadStore(64 * MIB, 4 * MIB, str(tmp_path))


# ── buffers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_buffer_is_used_again_when_nobody_views_it(store: PayloadStore) -> None:
    payload = store.take(100_000)
    assert len(payload.view) == 100_000
    address = numpy.frombuffer(payload.view, "u1").ctypes.data
    payload.release()
    again = store.take(99_000)
    assert numpy.frombuffer(again.view, "u1").ctypes.data == address
    again.release()
    assert store.abandoned == 0
    assert store.budget.held_bytes == 0


def test_a_buffer_that_a_numpy_array_still_views_is_left_to_it_and_counted(store: PayloadStore) -> None:
    payload = store.take(100_000)
    payload.view[:4] = b"keep"
    kept = numpy.asarray(payload.view.toreadonly())[:4]
    payload.release()
    following = store.take(100_000)
    following.view[:4] = b"lost"
    assert bytes(kept) == b"keep"
    assert store.abandoned == 1
    following.release()
    assert store.budget.held_bytes == 0


@given(st.integers(0, 2**40))
def test_a_capacity_wastes_at_most_an_eighth(size_bytes: int) -> None:
    capacity = capacity_for(size_bytes)
    assert capacity >= size_bytes
    assert capacity <= max(SMALLEST_CAPACITY, size_bytes + size_bytes // 8 + 1)
    assert capacity_for(capacity) == capacity


def test_the_pool_keeps_no_more_than_it_may_and_forgets_the_sizes_of_long_ago() -> None:
    pool = BufferPool(MIB)
    for size_bytes in (200_000, 300_000, 600_000):
        pool.give_back(bytearray(capacity_for(size_bytes)))
    assert pool.kept_bytes <= MIB
    pool.give_back(bytearray(2 * MIB))
    assert pool.kept_bytes <= MIB
    last = capacity_for(600_000)
    before = pool.kept_bytes
    pool.take(600_000)
    assert pool.kept_bytes == before - last, "the one used last is still there"


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_payload_above_the_limit_lies_in_a_file_without_a_name(store: PayloadStore, tmp_path: Path) -> None:
    payload = store.take(4 * MIB + 1)
    payload.view[-1] = 7
    assert len(payload.view) == 4 * MIB + 1
    assert list(tmp_path.iterdir()) == []
    assert store.budget.held_bytes == 0, "it is not in memory"
    payload.release()
    assert store.abandoned == 0


def test_a_file_that_is_still_viewed_lives_on_and_is_counted(store: PayloadStore) -> None:
    payload = store.take(5 * MIB)
    payload.view[:4] = b"keep"
    kept = numpy.frombuffer(payload.view, "u1")[:4]
    payload.release()
    assert bytes(kept) == b"keep"
    assert store.abandoned == 1


def test_a_scratch_folder_that_cannot_take_the_payload_is_a_storage_error(store: PayloadStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot take a payload of"):
        store.take(2**60)
    gone = PayloadStore(MIB, 1, str(tmp_path / "not there"))
    with pytest.raises(StorageError, match="not there"):
        gone.take(100)
    assert os.listdir(tmp_path) == []


# ── the budget ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_finds_no_room_waits_until_there_is_some() -> None:
    budget = ByteBudget(100)
    budget.acquire(80)
    thread = threading.Thread(target=budget.acquire, args=(50,))
    thread.start()
    wait_until(lambda: "1 waiting" in repr(budget))
    assert budget.held_bytes == 80
    budget.release(80)
    thread.join()
    assert budget.held_bytes == 50


def test_a_payload_larger_than_the_whole_budget_is_admitted_alone() -> None:
    budget = ByteBudget(100)
    budget.acquire(5_000)
    thread = threading.Thread(target=budget.acquire, args=(1,))
    thread.start()
    wait_until(lambda: "1 waiting" in repr(budget))
    budget.release(5_000)
    thread.join()
    assert budget.held_bytes == 1


def test_small_payloads_do_not_overtake_a_large_one_that_waits() -> None:
    budget = ByteBudget(100)
    budget.acquire(60)
    order: list[str] = []

    def take(name: str, size_bytes: int) -> None:
        budget.acquire(size_bytes)
        order.append(name)
        budget.release(size_bytes)

    large = threading.Thread(target=take, args=("large", 90))
    large.start()
    wait_until(lambda: "1 waiting" in repr(budget))
    small = threading.Thread(target=take, args=("small", 10))
    small.start()
    wait_until(lambda: "2 waiting" in repr(budget))
    budget.release(60)
    large.join()
    small.join()
    assert order == ["large", "small"]


def test_closing_ends_every_wait() -> None:
    budget = ByteBudget(100)
    budget.acquire(100)
    errors: list[Exception] = []

    def wait() -> None:
        try:
            budget.acquire(1)
        except ConnectionEnded as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: "1 waiting" in repr(budget))
    budget.close()
    thread.join()
    assert len(errors) == 1


def test_who_finds_no_room_in_time_has_none() -> None:
    budget = ByteBudget(100)
    assert budget.acquire(80)
    assert not budget.acquire(50, timeout_s=0.01)
    assert budget.held_bytes == 80
    assert budget.acquire(20, timeout_s=0.01), "who has gone stands in nobody's way"


@pytest.mark.parametrize("size_bytes", [0, 1, 100_000])
def test_a_payload_that_finds_no_room_in_memory_goes_into_a_file(tmp_path: Path, size_bytes: int) -> None:
    store = PayloadStore(MIB, 4 * MIB, str(tmp_path), room_within_s=0.01)
    first = store.take(2 * MIB)
    taken, copied = store.take(size_bytes), store.copy(memoryview(bytes(range(1, 251)))[:size_bytes])
    assert (len(taken.view), bytes(copied.view)) == (size_bytes, bytes(range(1, 251))[:size_bytes])
    assert store.budget.held_bytes == 2 * MIB
    for payload in (first, taken, copied):
        payload.release()
    assert store.budget.held_bytes == store.abandoned == 0
