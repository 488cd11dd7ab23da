"""A command that is stopped ends in order, wherever it just is."""

from __future__ import annotations

import math
import os
import signal
import threading

import pytest

from harmonicio.cli import foreground
from harmonicio.cli.foreground import StopReason, stoppable, within


class Dying:
    """Gets a signal while it is destroyed, where an exception would be lost."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "why"),
    [(signal.SIGTERM, StopReason.TERMINATED), (signal.SIGINT, StopReason.INTERRUPTED)],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_is_not_lost_where_no_exception_can_be_raised(number: int, why: StopReason) -> None:
    ended: list[StopReason] = []
    is_ended = threading.Event()

    def end(reason: StopReason) -> None:
        ended.append(reason)
        is_ended.set()

    with stoppable(end) as stop:
        Dying(number)
        assert is_ended.wait(10)
        assert stop.why is why
    assert ended == [why]


def test_the_time_ends_the_block_and_its_end_in_time_ends_the_watching() -> None:
    is_ended = threading.Event()
    with stoppable(lambda _: is_ended.set(), timeout_s=0.01) as stop:
        assert is_ended.wait(10)
    assert stop.why is StopReason.TIME_IS_UP
    ended: list[StopReason] = []
    with stoppable(ended.append, timeout_s=60) as stop:
        pass
    assert stop.why is None
    assert not ended


def test_who_is_hopeless_is_ended() -> None:
    is_ended = threading.Event()
    with stoppable(lambda _: is_ended.set(), is_hopeless=lambda: True) as stop:
        assert is_ended.wait(10)
    assert stop.why is StopReason.HOPELESS


@pytest.mark.filterwarnings("error")
def test_signals_are_heard_when_nobody_knows_whether_it_is_hopeless(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> bool:
        is_asked.set()
        raise ZeroDivisionError

    monkeypatch.setattr(foreground, "ASK_EVERY_S", 0.01)
    is_asked, is_ended = threading.Event(), threading.Event()
    with stoppable(lambda _: is_ended.set(), is_hopeless=fail) as stop:
        assert is_asked.wait(10)
        signal.raise_signal(signal.SIGTERM)
        assert is_ended.wait(10)
    assert stop.why is StopReason.TERMINATED
    assert "ZeroDivisionError" in caplog.text


def test_a_time_limit_may_be_longer_than_any_wait() -> None:
    is_ended = threading.Event()
    with stoppable(lambda _: is_ended.set(), timeout_s=math.inf) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert is_ended.wait(10)
    assert stop.why is StopReason.TERMINATED


def test_the_handlers_of_before_are_there_again() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stoppable(lambda _: None):
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_what_takes_too_long_is_not_waited_for() -> None:
    is_over = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.01, is_over.wait)
    is_over.set()
    assert within(10, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(10, lambda: 1 // 0)
