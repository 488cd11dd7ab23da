"""Payload files go one behind the other, whoever asks for it and however often."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from harmonicio.master.backlog.file_removal import FileRemoval
from harmonicio.testing.waiting import wait_until


def test_what_is_added_while_files_are_removed_is_removed_behind_them_by_one_thread() -> None:
    removed: list[int] = []
    at_work, may_go_on = threading.Event(), threading.Event()
    threads: set[int] = set()

    def remove(sequence: int) -> None:
        threads.add(threading.get_ident())
        at_work.set()
        assert may_go_on.wait(10)
        removed.append(sequence)

    with ThreadPoolExecutor(4) as pool:
        removal = FileRemoval(pool, remove)
        removal.soon([1, 2])
        assert at_work.wait(10)
        removal.soon([3])
        removal.soon([])
        removal.soon([4, 5])
        may_go_on.set()
        wait_until(lambda: len(removed) == 5)
    assert removed == [1, 2, 3, 4, 5]
    assert len(threads) == 1


def test_what_comes_when_all_is_done_is_removed_too() -> None:
    removed: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        removal = FileRemoval(pool, removed.append)
        for sequence in range(3):
            removal.soon([sequence])
            wait_until(lambda sequence=sequence: removed == list(range(sequence + 1)))  # type: ignore[misc]


def test_without_threads_it_is_done_at_once() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    removed: list[int] = []
    FileRemoval(pool, removed.append).soon([1, 2])
    assert removed == [1, 2]


def test_one_that_cannot_be_removed_does_not_keep_the_others(caplog: pytest.LogCaptureFixture) -> None:
    removed: list[int] = []

    def remove(sequence: int) -> None:
        if sequence == 1:
            raise MemoryError
        removed.append(sequence)

    with caplog.at_level(logging.ERROR), ThreadPoolExecutor(1) as pool:
        removal = FileRemoval(pool, remove)
        removal.soon([1, 2])
        wait_until(lambda: removed == [2])
        removal.soon([3])
        wait_until(lambda: removed == [2, 3])
    assert "message 1 was not removed" in caplog.text
