"""A patient pool has few threads after any crowd, and enough when what it was given does not end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

import pytest

from harmonicio.testing.waiting import wait_until
from harmonicio.transport.patient_pool import EAGER_THREADS, LONG_WAIT_S, LOOK_EVERY_S, PatientPool

LIMIT = 200


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def pool(gate: threading.Event) -> Iterator[PatientPool]:
    made = PatientPool(LIMIT, "patient")
    yield made
    gate.set()
    made.shutdown()


def threads() -> int:
    return sum(thread.name.startswith("patient") for thread in threading.enumerate())


def block_eager_threads(pool: PatientPool, gate: threading.Event) -> None:
    for _ in range(EAGER_THREADS):
        pool.submit(gate.wait, 30)
    wait_until(lambda: pool.waiting == 0, 10, what="the first threads to be at work")


def test_a_few_threads_start_at_once(pool: PatientPool, gate: threading.Event) -> None:
    block_eager_threads(pool, gate)
    assert threads() == EAGER_THREADS


def test_a_crowd_that_is_soon_done_starts_no_thread_more(pool: PatientPool) -> None:
    done = [pool.submit(pow, 2, 3) for _ in range(5_000)]
    pool.look(time.monotonic())
    assert [each.result(10) for each in done] == [8] * 5_000
    pool.look(time.monotonic() + LOOK_EVERY_S)
    assert threads() <= EAGER_THREADS and pool.waiting == 0
    assert pool.seconds_to_look(time.monotonic()) == math.inf


def test_what_does_not_end_gets_threads_up_to_the_bound_faster_and_faster(
    pool: PatientPool, gate: threading.Event
) -> None:
    block_eager_threads(pool, gate)
    now = time.monotonic()
    pool.look(now)
    for _ in range(LIMIT):
        pool.submit(gate.wait, 30)
    counts = []
    for number in range(1, 10):
        pool.look(now + number * 2 * LOOK_EVERY_S)
        counts.append(threads() - EAGER_THREADS)
        wait_until(lambda: pool.waiting == LIMIT - counts[-1], 10, what="the new threads to take something")
    assert counts[:6] == [1, 3, 7, 15, 31, 63]
    assert counts[-1] == LIMIT - EAGER_THREADS


def test_one_that_waits_long_while_others_are_taken_gets_a_thread_at_each_look(
    pool: PatientPool, gate: threading.Event
) -> None:
    block_eager_threads(pool, gate)
    now, turn, left = time.monotonic(), threading.Semaphore(0), 40

    def one_is_taken() -> None:
        nonlocal left
        left -= 1
        wait_until(lambda: pool.waiting == left, 10, what="one more to be taken")

    pool.look(now)
    for _ in range(left):
        pool.submit(turn.acquire, timeout=20)
    pool.look(now + 2.2 * LOOK_EVERY_S)
    one_is_taken()
    for looks in (3.3, 4.4):
        turn.release()
        one_is_taken()
        pool.look(now + looks * LOOK_EVERY_S)
        assert threads() == EAGER_THREADS + 1, "all that waits gets on"
    for number in (1, 2):
        turn.release()
        one_is_taken()
        pool.look(now + LONG_WAIT_S + number)
        assert threads() == EAGER_THREADS + 1 + number
        one_is_taken()
    turn.release(40)


def test_it_is_not_looked_at_more_often_than_it_needs(pool: PatientPool, gate: threading.Event) -> None:
    block_eager_threads(pool, gate)
    pool.submit(gate.wait, 30)
    now = time.monotonic() + 1
    pool.look(now)
    assert threads() == EAGER_THREADS + 1
    pool.submit(gate.wait, 30)
    assert pool.seconds_to_look(now) == pytest.approx(LOOK_EVERY_S)
    pool.look(now + LOOK_EVERY_S / 2)
    assert threads() == EAGER_THREADS + 1
