"""How much strangers may have a log say."""

from __future__ import annotations

import logging

import pytest

from harmonicio.testing.clock import ManualClock
from harmonicio.transport.stranger_log import BURST, PER_S, StrangerLog

pytestmark = pytest.mark.row("S18")


def test_a_flood_of_lines_is_a_few_and_their_number(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    log = StrangerLog(logging.getLogger("test"), clock.monotonic)
    with caplog.at_level(logging.INFO):
        for number in range(BURST + 1_000):
            log.say(logging.INFO, "%s came, %d", "100 %s", number)
        assert len(caplog.records) == BURST
        assert caplog.messages[-1] == f"100 %s came, {BURST - 1}"
        caplog.clear()
        clock.advance(1.0 / PER_S)
        log.say(logging.WARNING, "%s came", "100 %s")
        log.say(logging.WARNING, "%s came", "100 %s")
        assert caplog.messages == ["100 %s came (1000 lines like this are left out.)"]


def test_who_is_quiet_for_a_while_is_heard_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    log = StrangerLog(logging.getLogger("test"), clock.monotonic)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            caplog.clear()
            for _ in range(2 * BURST):
                log.say(logging.INFO, "here")
            assert len(caplog.records) == BURST
            clock.advance(10 * BURST / PER_S)
