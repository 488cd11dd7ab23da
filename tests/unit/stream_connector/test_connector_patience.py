"""How long a message waits for an engine."""

from __future__ import annotations

import pytest

from harmonicio.stream_connector.patience import DRAINS_SOON_S, MIN_PATIENCE_S, RATE_VALID_S, Patience


def test_patience_is_twice_the_interval_between_credits_and_at_least_50_ms() -> None:
    patience = Patience()
    assert patience.limit_s() == MIN_PATIENCE_S
    patience.credited(10.0, is_busy=True)
    patience.credited(10.3, is_busy=True)
    assert patience.limit_s() == pytest.approx(0.6)
    for turn in range(40):
        patience.credited(10.31 + turn / 100, is_busy=True)
    assert patience.limit_s() == pytest.approx(MIN_PATIENCE_S)


def test_a_rest_is_no_interval() -> None:
    patience = Patience()
    patience.credited(10.0, is_busy=True)
    patience.rested()
    patience.credited(700.0, is_busy=False)
    patience.credited(1400.0, is_busy=True)
    assert patience.limit_s() == MIN_PATIENCE_S


def test_engines_that_are_gone_say_nothing_about_those_to_come() -> None:
    patience = Patience()
    patience.credited(10.0, is_busy=True)
    patience.credited(70.0, is_busy=True)
    patience.forget()
    assert patience.limit_s() == MIN_PATIENCE_S


def test_patience_is_not_over_while_engines_take_what_waits_soon() -> None:
    patience = Patience()
    for turn in range(10):
        patience.answered(100, 10.0 + turn * 0.03)
    now = 10.27
    rate = 100 / 0.03
    few, many = int(rate * DRAINS_SOON_S * 0.9), int(rate * DRAINS_SOON_S * 1.1)
    assert not patience.is_over(now - 0.3, few, now, is_crowded=False)
    assert patience.is_over(now - 0.3, many, now, is_crowded=False)
    assert patience.is_over(now - 0.3, few, now + RATE_VALID_S, is_crowded=False), "the measurement is too old"
    assert patience.is_over(now - 0.6, few, now, is_crowded=False), "soon is over: others went before it"
    assert not patience.is_over(now - 0.04, many, now, is_crowded=True), "not even when half of the budget waits"


def test_a_limit_that_somebody_set_stands_and_hurry_shortens_it() -> None:
    patience = Patience(7.0)
    patience.credited(10.0, is_busy=True)
    patience.credited(70.0, is_busy=True)
    assert patience.limit_s() == 7.0
    assert patience.limit_s(is_crowded=True) == MIN_PATIENCE_S
    patience.hurry()
    assert patience.limit_s() == MIN_PATIENCE_S
