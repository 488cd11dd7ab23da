"""How long a connector leaves a master alone that does not answer."""

from __future__ import annotations

from harmonicio.core.errors import MasterUnavailable, Unavailable
from harmonicio.stream_connector.trouble import RETRY_FIRST_S, RETRY_LEAST_S, RETRY_MAX_S, Trouble


def test_the_pauses_grow_from_the_first_to_the_longest_and_begin_anew_when_the_master_has_answered() -> None:
    trouble, error = Trouble("http://127.0.0.1:1"), MasterUnavailable("The master is away.")
    pauses = [trouble.pause_s(error) for _ in range(12)]
    for failures, pause_s in enumerate(pauses):
        whole_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2**failures)
        assert RETRY_LEAST_S <= pause_s <= whole_s
    assert max(pauses) > RETRY_FIRST_S
    trouble.over()
    assert trouble.pause_s(error) <= RETRY_FIRST_S


def test_a_master_that_says_when_to_come_back_is_obeyed_within_bounds() -> None:
    trouble = Trouble("http://127.0.0.1:1")
    pauses = [trouble.pause_s(Unavailable("Busy.", retry_after_s=2.0)) for _ in range(20)]
    assert 2.0 <= min(pauses) < max(pauses) <= 4.0, "not all of those whom it told so come at once"
    assert trouble.pause_s(Unavailable("Busy.", retry_after_s=3600.0)) <= 2 * RETRY_MAX_S
