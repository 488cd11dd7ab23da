"""A delivery whose outcome comes at the moment in which its owner gives up waiting."""

from __future__ import annotations

import pytest

from harmonicio.core.errors import OutcomeTimeout
from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.stream_connector.delivery import Delivery, DeliveryState


class LateOwner:
    """Has the outcome just before the waiting ends."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def await_outcome(self, delivery: Delivery, timeout_s: float | None) -> None:
        delivery.settle(DeliveryState.DONE, Outcome(OutcomeKind.DONE, result="late"))
        raise self.error


def test_an_outcome_that_comes_together_with_the_time_out_counts() -> None:
    delivery = Delivery(LateOwner(OutcomeTimeout("The time is up.")), "m", 1)
    assert delivery.result(timeout_s=1) == "late"
    assert delivery.is_awaited


def test_ctrl_c_is_never_lost_in_an_outcome_that_comes_together_with_it() -> None:
    delivery = Delivery(LateOwner(KeyboardInterrupt()), "m", 1)
    with pytest.raises(KeyboardInterrupt):
        delivery.result()
    assert not delivery.is_awaited
    assert delivery.result() == "late"
