"""Who polls, and for how long: only where one thing after another comes soon."""

from __future__ import annotations

import itertools
import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from benches.data_port import Ports
from harmonicio.testing.channel_suite import next_event
from harmonicio.transport.busy_poll import (
    AT_ONCE_S,
    LEFT_ALONE,
    LEFT_ALONE_MOST,
    MOMENTS,
    SOON_S,
    STOPPED_S,
    TOO_OFTEN,
    BusyPoll,
)
from harmonicio.transport.channel import Channel
from harmonicio.transport.link import Link
from harmonicio.wire.connection import message_prefix
from harmonicio.wire.events import OutcomesReceived

A_MOMENT_S = (AT_ONCE_S + SOON_S) / 2


def polling() -> BusyPoll:
    made = BusyPoll()
    for _ in range(MOMENTS):
        made.waited(A_MOMENT_S)
    return made


def test_nobody_polls_before_it_is_known_to_pay() -> None:
    made = BusyPoll()
    for _ in range(MOMENTS - 1):
        made.waited(A_MOMENT_S)
        assert not made.is_due
    made.waited(A_MOMENT_S)
    assert made.is_due


@pytest.mark.parametrize("waited_s", [SOON_S, math.inf], ids=["late", "nothing"])
def test_one_wait_that_does_not_fit_ends_it(waited_s: float) -> None:
    made = polling()
    made.waited(waited_s)
    assert not made.is_due


def test_what_is_there_at_once_ends_no_polling_and_begins_none() -> None:
    made = polling()
    for _ in range(2 * MOMENTS):
        made.waited(AT_ONCE_S)
        assert made.is_due
    made = BusyPoll()
    for _ in range(2 * MOMENTS):
        made.waited(A_MOMENT_S)
        made.waited(AT_ONCE_S)
        assert not made.is_due


def test_what_is_there_at_once_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def turns() -> int:
        nonlocal asked
        asked += 1
        return 0

    monkeypatch.setattr("harmonicio.transport.busy_poll._turns_of_others", turns)
    looks = iter(["here", "not looked for"])
    assert BusyPoll().poll(lambda: next(looks)) == "here"
    assert next(looks) == "not looked for"
    assert not asked, "the kernel need not say what others did meanwhile"


def test_what_is_found_ends_the_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harmonicio.transport.busy_poll.time.monotonic", lambda: 1.0)
    answers: Iterator[str | None] = iter([None, None, None, None, None, "here", "not looked for"])
    assert BusyPoll().poll(lambda: next(answers)) == "here"
    assert next(answers) == "not looked for"


def test_nobody_looks_for_longer_than_a_moment() -> None:
    looks: list[float] = []
    assert BusyPoll().poll(lambda: looks.append(time.monotonic())) is None
    gaps_s = [after - before for before, after in itertools.pairwise(looks)]
    assert looks[-1] - looks[0] < SOON_S + 4 * max(gaps_s)


def test_a_clock_that_stands_still_does_not_keep_who_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harmonicio.transport.busy_poll.time.monotonic", lambda: 1.0)
    assert BusyPoll().poll(lambda: None) is None


def waits_until_it_sleeps(made: BusyPoll, others: Callable[[int], bool], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return after how many waits it does not poll any more; others get the processor in those that are named."""
    turns = 0
    monkeypatch.setattr("harmonicio.transport.busy_poll._turns_of_others", lambda: turns)
    for wait in range(10 * TOO_OFTEN):
        found = iter([None, True])

        def look(wait: int = wait, found: Iterator[bool | None] = found) -> bool | None:
            nonlocal turns
            turns += others(wait)
            return next(found)

        made.poll(look)
        made.poll(lambda: True)  # Of several looks for one message only one counts.
        made.waited(A_MOMENT_S)
        if not made.is_due:
            return wait
    return 10 * TOO_OFTEN


def test_where_others_want_the_processor_most_of_the_time_it_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made = polling()
    assert waits_until_it_sleeps(made, lambda wait: wait % 10 != 0, monkeypatch) <= 2 * TOO_OFTEN
    for _ in range(LEFT_ALONE + MOMENTS):
        assert not made.is_due
        made.waited(A_MOMENT_S)
    assert made.is_due, "it is tried again"
    assert waits_until_it_sleeps(made, lambda wait: wait % 10 != 0, monkeypatch) <= 2 * TOO_OFTEN
    for _ in range(LEFT_ALONE + MOMENTS):
        made.waited(A_MOMENT_S)
    assert not made.is_due, "and more rarely each time"
    for _ in range(LEFT_ALONE_MOST):
        made.waited(A_MOMENT_S)
    assert made.is_due


def test_who_is_stopped_for_long_does_not_poll_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    made, now = polling(), 100.0

    def look() -> None:
        nonlocal now
        now += 2 * STOPPED_S

    monkeypatch.setattr("harmonicio.transport.busy_poll.time.monotonic", lambda: now)
    assert made.poll(look) is None
    for _ in range(4 * LEFT_ALONE):
        made.waited(A_MOMENT_S)
        assert not made.is_due


def test_a_payload_that_takes_longer_is_polled_for_during_its_first_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, now, looks = polling(), 100.0, 0
    monkeypatch.setattr("harmonicio.transport.busy_poll.time.monotonic", lambda: now)

    def look(buffer: memoryview) -> int:
        nonlocal now, looks
        now, looks = now + SOON_S / 4, looks + 1
        buffer[0] = looks
        return 1

    ours, theirs = socket.socketpair()
    with theirs, closing(Channel(ours, "them")) as channel:
        theirs.sendall(bytes(100))
        monkeypatch.setattr(channel, "try_receive", look)
        assert channel.receive_exactly(memoryview(bytearray(100)), polling=made) == 100
    assert 4 <= looks <= 5
    now += 1.0
    made.waited(A_MOMENT_S)
    assert made.is_due, "that is no stop"


def test_what_the_kernel_does_now_and_then_is_no_reason_to_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waits_until_it_sleeps(polling(), lambda wait: wait % 3 == 0, monkeypatch) == 10 * TOO_OFTEN


def test_a_port_polls_for_messages_that_come_alone_and_not_for_ever(
    ports: Ports, dialled: Callable[..., Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine is, the messages of this test come within a moment.
    monkeypatch.setattr("harmonicio.transport.busy_poll.SOON_S", 0.05)
    polls: list[int | None] = []
    poll_into = Channel.poll_into

    def counted(channel: Channel, buffer: memoryview, polling: BusyPoll, until: float | None = None) -> int | None:
        polls.append(poll_into(channel, buffer, polling, until))
        return polls[-1]

    monkeypatch.setattr(Channel, "poll_into", counted)
    link = dialled(ports().address)

    def ask(number: int) -> None:
        link.send(message_prefix(f"m-{number}", 3), b"abc")
        assert isinstance(next_event(link), OutcomesReceived)

    for number in range(100):
        ask(number)
        if polls and polls[-1]:
            break
    assert polls and polls[-1], "a message was found by polling"
    polled = len(polls) + 1  # What came last may have been expected to be followed by another.
    time.sleep(0.3)
    assert len(polls) <= polled, "nobody polls on an idle connection"
