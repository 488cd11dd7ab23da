"""A patient pool has few threads after any crowd, and enough when what it was given does not end."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator

import pytest

from benches.no_threads import no_threads
from harmonicio.core.errors import Unavailable
from harmonicio.testing.waiting import wait_until
from harmonicio.transport.patient_pool import EAGER_THREADS, LOOK_EVERY_S, SOON_S, PatientPool, threads_wanted

LIMIT = 200
LOOK_S = 1.1 * LOOK_EVERY_S


class Bench:
    """A pool with a clock of its own; ``gate`` lets go all that it was given to wait for."""

    def __init__(self) -> None:
        self.now = 100.0
        self.gate = threading.Event()
        self.pool = PatientPool(LIMIT, "patient", clock=lambda: self.now)

    @property
    def threads(self) -> int:
        return sum(thread.name.startswith("patient") for thread in threading.enumerate())

    @property
    def waiting(self) -> int:
        return len(self.pool._since)

    def submit(self, count: int, work: Callable[..., object] | None = None) -> None:
        for _ in range(count):
            self.pool.submit(work or self.gate.wait, 30)

    def look(self, later_s: float = LOOK_S) -> int:
        """Look so much later; return how many threads started, each of which has taken something."""
        self.now += later_s
        before, waiting = self.threads, self.waiting
        self.pool.look(self.now)
        started = self.threads - before
        wait_until(lambda: self.waiting <= waiting - started, 10, what="the new threads to take something")
        return started

    def submit_until_eager_threads_wait(self) -> None:
        self.submit(EAGER_THREADS)
        wait_until(lambda: self.waiting == 0, 10, what="the first threads to be at work")
        assert self.threads == EAGER_THREADS
        self.look()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.gate.set()
    made.pool.shutdown()
    assert made.threads == 0


# ── how many are wanted ──────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_that_has_just_come_wants_a_thread() -> None:
    assert threads_wanted(1_000, LOOK_EVERY_S / 2, 0, LOOK_EVERY_S, 0) == 0
    assert threads_wanted(0, 0.0, 0, LOOK_EVERY_S, 8) == 0


def test_while_nothing_moves_threads_double() -> None:
    started = [0]
    while sum(started) < 100:
        started.append(threads_wanted(100 - sum(started), 1.0, started[-1], LOOK_EVERY_S, started[-1]))
    assert started == [0, 1, 2, 4, 8, 16, 32, 37]


@pytest.mark.parametrize(("pace_per_s", "wanted"), [(1_000, 0), (500, 0), (400, 5), (20, 24)])
def test_what_moves_wants_as_many_threads_as_its_pace_lacks(pace_per_s: int, wanted: int) -> None:
    waiting_per_s = 500
    taken = int(pace_per_s * LOOK_EVERY_S)
    assert threads_wanted(int(waiting_per_s * SOON_S / 2), SOON_S / 2, taken, LOOK_EVERY_S, 0) == wanted


@pytest.mark.parametrize("quick_of_a_hundred", [0, 33, 50, 75, 90])
def test_newcomers_among_slow_ones_are_taken_soon(quick_of_a_hundred: int) -> None:
    """Every so many-th thing is done at once, the others never; each thread takes until it has one of these."""
    queue = [number % 100 < quick_of_a_hundred for number in range(400)]
    queue = [queue[37 * place % 400] for place in range(400)]  # In no order.
    waited_s, started, taken = LOOK_EVERY_S, 0, 0
    while queue:
        started = threads_wanted(len(queue), waited_s, taken, LOOK_EVERY_S, started)
        taken = 0
        for _ in range(started):
            while queue:
                taken += 1
                if not queue.pop(0):
                    break
        waited_s += LOOK_EVERY_S
    assert waited_s <= SOON_S + LOOK_S


# ── the pool ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_crowd_that_is_soon_done_starts_no_thread_more(bench: Bench) -> None:
    done: list[int] = []
    bench.submit(5_000, done.append)
    wait_until(lambda: len(done) == 5_000, 30, what="all of them")
    bench.look()
    assert bench.threads <= EAGER_THREADS and bench.pool.seconds_to_look(bench.now) == math.inf


def test_what_does_not_end_gets_threads_up_to_the_bound(bench: Bench) -> None:
    bench.submit_until_eager_threads_wait()
    assert bench.pool.is_busy
    bench.submit(LIMIT)
    assert [bench.look() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 64, 41, 0]
    assert bench.threads == LIMIT and bench.waiting == EAGER_THREADS


def test_it_is_not_looked_at_more_often_than_it_needs(bench: Bench) -> None:
    bench.submit_until_eager_threads_wait()
    bench.submit(9)
    assert bench.look() == 1
    assert bench.pool.seconds_to_look(bench.now) == pytest.approx(LOOK_EVERY_S)
    assert bench.look(LOOK_EVERY_S / 2) == 0
    assert bench.look(LOOK_EVERY_S / 2 + 0.001) == 2


def test_it_is_busy_only_when_no_thread_is_left_for_what_comes_next(bench: Bench) -> None:
    bench.submit(EAGER_THREADS - 1)
    wait_until(lambda: bench.waiting == 0, 10, what="the first threads to be at work")
    assert not bench.pool.is_busy, "one more starts at once"
    bench.submit(1)
    wait_until(lambda: bench.waiting == 0, 10, what="the last of the first threads to be at work")
    assert bench.pool.is_busy
    bench.gate.set()
    wait_until(lambda: not bench.pool.is_busy, 10, what="threads to be free")


def test_all_is_done_in_order_by_those_that_it_has_while_none_can_be_started(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []
    with no_threads("patient") as refused:
        bench.submit(1)
        for number in range(50):
            bench.pool.submit(done.append, number)
        assert refused and bench.pool.is_busy
        bench.gate.set()
        wait_until(lambda: len(done) == 50, 10, what="all of them")
    assert done == [*range(50)]
    bench.gate.clear()
    bench.submit_until_eager_threads_wait()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1 and "Another thread for patient, which has 1, cannot be started" in said[0]


def test_without_its_first_thread_there_is_no_pool() -> None:
    with no_threads("patient"), pytest.raises(Unavailable, match="No thread can be started"):
        PatientPool(4, "patient")


def test_a_pool_that_was_shut_down_does_what_it_has_taken_and_takes_nothing_more() -> None:
    pool, done = PatientPool(1, "patient"), []
    pool.submit(done.append, "taken")
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(done.append, "not taken")
    assert done == ["taken"]


def test_work_that_fails_is_logged_and_its_thread_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    pool, done = PatientPool(1, "patient"), []
    pool.submit(int, "no number")
    pool.submit(done.append, "done")
    pool.shutdown()
    assert done == ["done"]
    assert [record.getMessage() for record in caplog.records] == ["A piece of work of patient failed"]


def test_it_can_be_looked_at_whatever_its_threads_do_just_then() -> None:
    pool = PatientPool(8, "patient", clock=lambda: 0.0)
    for number in range(20_000):
        pool.submit(int)
        pool.look(number * LOOK_S)
        pool.seconds_to_look(number * LOOK_S)
    pool.shutdown()
    assert pool.seconds_to_look(0.0) == math.inf
