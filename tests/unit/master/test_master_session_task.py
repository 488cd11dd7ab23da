"""A session's own work: never twice at once, and whenever it was kicked."""

from __future__ import annotations

from unittest.mock import Mock

from benches.no_threads import no_threads
from harmonicio.master.session_task import SessionTask
from harmonicio.testing.waiting import wait_until
from harmonicio.transport.thread_pool import ThreadPool


def test_the_work_is_done_for_each_kick_while_no_thread_can_be_started() -> None:
    pool, work, failed = ThreadPool(64, "send"), Mock(), Mock()
    task = SessionTask(pool, work, failed)
    with no_threads("send"):
        task.begin()
        for count in (1, 2, 3):
            wait_until(lambda count=count: work.call_count >= count)
            wait_until(lambda: "resting" in repr(task))
            task.kick()
    pool.shutdown()
    assert (work.call_count, failed.called) == (4, False)
