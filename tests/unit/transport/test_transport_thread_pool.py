"""What a pool has taken is done once, whether or not threads can be started for it."""

from __future__ import annotations

import threading

import pytest

from benches.no_threads import no_threads
from harmonicio.core.errors import Unavailable
from harmonicio.transport.thread_pool import ThreadPool


def test_work_is_done_and_not_refused_while_no_thread_more_can_be_started() -> None:
    pool = ThreadPool(4, "pool")
    gate = threading.Event()
    with no_threads("pool") as refused:
        first = pool.submit(gate.wait, 10)
        rest = [pool.submit(pow, 2, number) for number in range(5)]
        assert refused
        gate.set()
        assert first.result(10)
        assert [each.result(10) for each in rest] == [1, 2, 4, 8, 16]
    pool.shutdown()


def test_with_threads_to_spare_it_has_as_many_as_it_needs_up_to_its_bound() -> None:
    pool = ThreadPool(3, "pool")
    together = threading.Barrier(3)
    for each in [pool.submit(together.wait, 10) for _ in range(3)]:
        each.result(10)
    for each in [pool.submit(pow, 2, 3) for _ in range(9)]:
        assert each.result(10) == 8
    assert sum(thread.name.startswith("pool") for thread in threading.enumerate()) == 3
    pool.shutdown()


def test_a_pool_that_is_ready_needs_no_thread_more() -> None:
    pool = ThreadPool(3, "pool", is_ready=True)
    together = threading.Barrier(3)
    with no_threads("pool") as refused:
        for each in [pool.submit(together.wait, 10) for _ in range(3)]:
            each.result(10)
        assert not refused
    pool.shutdown()


def test_a_pool_that_was_shut_down_does_what_it_has_taken_and_takes_nothing_more() -> None:
    pool, done = ThreadPool(1, "pool"), []
    pool.submit(done.append, "taken")
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(done.append, "not taken")
    assert done == ["taken"]


def test_without_its_first_thread_there_is_no_pool() -> None:
    with no_threads("pool"), pytest.raises(Unavailable, match="No thread can be started"):
        ThreadPool(4, "pool")


def test_that_threads_cannot_be_started_is_said_once_each_time(caplog: pytest.LogCaptureFixture) -> None:
    pool, gates = ThreadPool(9, "pool"), [threading.Event(), threading.Event()]
    for gate in gates:
        pool.submit(gate.wait, 10)
        with no_threads("pool") as refused:
            for _ in range(3):
                pool.submit(gate.wait, 10)
        assert refused
        pool.submit(gate.wait, 10)  # A thread can be started again.
    for gate in gates:
        gate.set()
    pool.shutdown()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 2 and all("Another thread for pool" in each for each in said)
