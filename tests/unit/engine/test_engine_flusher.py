"""Sending behind the sessions' backs: what goes wrong there must not be lost in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from harmonicio.core.errors import ConnectionEnded
from harmonicio.engine.flusher import Flusher
from harmonicio.testing.waiting import wait_until


class Connection:
    """Has something to send, and an error when it does; ``was_cut`` is set when its connection is ended."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.was_flushed = threading.Event()
        self.was_cut = threading.Event()

    @property
    def flush_due_at(self) -> float | None:
        return None if self.was_flushed.is_set() else 0.0

    def checkpoint(self) -> None:
        self.was_flushed.set()
        if self.error is not None:
            raise self.error

    def cut(self) -> None:
        self.was_cut.set()


@pytest.fixture
def reviews() -> list[float]:
    return []


@pytest.fixture
def flusher(reviews: list[float]) -> Iterator[Flusher]:
    def review() -> None:
        reviews.append(time.monotonic())
        if len(reviews) == 1:
            raise MemoryError("once")

    flusher = Flusher(review)
    flusher.start()
    yield flusher
    flusher.close()


def test_a_session_that_could_not_be_flushed_because_of_an_error_of_ours_is_cut(
    flusher: Flusher, caplog: pytest.LogCaptureFixture
) -> None:
    unlucky = Connection(MemoryError("no room"))
    flusher.flush_soon(unlucky)
    assert unlucky.was_cut.wait(5)
    assert "MemoryError: no room" in caplog.text


def test_a_session_whose_peer_is_gone_is_left_to_its_own_thread(flusher: Flusher) -> None:
    gone, next_one = Connection(ConnectionEnded("gone")), Connection()
    flusher.flush_soon(gone)
    assert gone.was_flushed.wait(5)
    flusher.flush_soon(next_one)
    assert next_one.was_flushed.wait(5)
    flusher.close()
    assert not gone.was_cut.is_set()
    assert not next_one.was_cut.is_set()


def test_the_flusher_goes_on_after_an_error_in_a_review(
    flusher: Flusher, reviews: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    behind = Connection()
    flusher.review_at(0.0)
    wait_until(lambda: reviews, what="the first review")
    flusher.watch(behind)
    assert behind.was_flushed.wait(5)
    assert "MemoryError: once" in caplog.text
