"""Rows of several threads are committed together: who hears what, and who waits for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from harmonicio.core.errors import StorageError
from harmonicio.haste.feature_db.base import Answer, FeatureRow
from harmonicio.haste.group_commit import GroupCommit
from harmonicio.testing.feature_db_suite import row
from harmonicio.testing.waiting import wait_until


class Disk:
    """Commits rows when it is let go on, up to three at a time."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.commits: list[list[int]] = []
        self.failures: list[BaseException] = []
        self.answers_less = False

    def commit(self, rows: Sequence[FeatureRow]) -> list[Answer]:
        self.commits.append([each.metadata["number"] for each in rows])
        self.goes_on.wait()
        if self.failures:
            raise self.failures.pop()
        return list(rows)[self.answers_less :]

    def group(self, wait_s: float = 60.0) -> GroupCommit[FeatureRow]:
        return GroupCommit(self.commit, lambda _: 3, wait_s=wait_s)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def threads(disk: Disk) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(10) as opened:
        yield opened
        disk.goes_on.set()


def test_what_comes_during_a_commit_goes_together_within_bounds_and_each_hears_of_his_own(
    disk: Disk, threads: ThreadPoolExecutor
) -> None:
    group, committing = disk.group(), []
    for number in range(8):
        committing.append(threads.submit(group.commit, [row(number)]))
        wait_until(lambda: disk.commits == [[0]] and f"committing, {number} rows waiting" in repr(group))  # noqa: B023
    disk.goes_on.set()
    assert [each.result() for each in committing] == [[row(number)] for number in range(8)]
    assert disk.commits == [[0], [1, 2, 3], [4, 5, 6], [7]]
    assert repr(group) == "<GroupCommit, idle, 0 rows waiting>"


def test_rows_beyond_one_commit_are_committed_by_several(disk: Disk) -> None:
    disk.goes_on.set()
    assert disk.group().commit([row(number) for number in range(5)]) == [row(number) for number in range(5)]
    assert disk.commits == [[0, 1, 2], [3, 4]]


def test_nothing_is_committed_at_once(disk: Disk) -> None:
    assert disk.group().commit([]) == []
    assert disk.commits == []


def test_who_waits_for_too_long_may_try_again_and_leaves_nothing_in_line(
    disk: Disk, threads: ThreadPoolExecutor
) -> None:
    group = disk.group(wait_s=0.1)
    first = threads.submit(group.commit, [row(0)])
    wait_until(lambda: disk.commits == [[0]])
    with pytest.raises(StorageError, match=r"for 0\.1 s") as raised:
        group.commit([row(1), row(2)])
    assert raised.value.retryable
    assert "committing, 0 rows waiting" in repr(group)
    disk.goes_on.set()
    assert first.result() == [row(0)], "whose commit is under way has it"
    assert group.commit([row(1)]) == [row(1)]


def test_who_commits_for_others_for_too_long_does_not_begin_with_his_own(
    disk: Disk, threads: ThreadPoolExecutor
) -> None:
    group = disk.group(wait_s=0.1)
    committing = threads.submit(group.commit, [row(number) for number in range(5)])
    wait_until(lambda: disk.commits == [[0, 1, 2]])
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() > begun + 0.1)
    disk.goes_on.set()
    with pytest.raises(StorageError, match=r"for 0\.1 s"):
        committing.result()
    assert disk.commits == [[0, 1, 2]]


def test_a_commit_that_fails_is_the_answer_to_those_who_are_in_it_and_the_next_goes_on(
    disk: Disk, threads: ThreadPoolExecutor
) -> None:
    group = disk.group()
    disk.failures = [StorageError("No room.")]
    first = threads.submit(group.commit, [row(0)])
    wait_until(lambda: disk.commits == [[0]])
    second = threads.submit(group.commit, [row(1)])
    wait_until(lambda: "1 rows waiting" in repr(group))
    disk.goes_on.set()
    (answer,) = first.result()
    assert isinstance(answer, StorageError)
    assert second.result() == [row(1)]


def test_a_commit_that_does_not_answer_each_is_an_error_and_the_next_goes_on(disk: Disk) -> None:
    group = disk.group()
    disk.goes_on.set()
    disk.answers_less = True
    assert [type(answer) for answer in group.commit([row(0), row(1)])] == [ValueError, ValueError]
    disk.answers_less = False
    assert group.commit([row(0)]) == [row(0)]


def test_a_thread_that_is_ended_while_it_commits_keeps_nobody_waiting(disk: Disk) -> None:
    group = disk.group()
    disk.goes_on.set()
    disk.failures = [SystemExit()]
    with pytest.raises(SystemExit):
        group.commit([row(0)])
    assert group.commit([row(0)]) == [row(0)]


def test_who_cannot_even_begin_a_commit_gives_the_turn_back_and_takes_his_rows_along(disk: Disk) -> None:
    troubles: list[BaseException] = [MemoryError("none is left")]

    def together(line: Sequence[FeatureRow]) -> int:
        if troubles:
            raise troubles.pop()
        return len(line)

    disk.goes_on.set()
    group = GroupCommit(disk.commit, together)
    with pytest.raises(MemoryError):
        group.commit([row(1)])
    assert repr(group) == "<GroupCommit, idle, 0 rows waiting>"
    assert group.commit([row(2)]) == [row(2)]
    assert disk.commits == [[2]]
