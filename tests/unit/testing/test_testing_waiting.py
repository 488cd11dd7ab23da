"""Waiting for a condition."""

from __future__ import annotations

import pytest

from harmonicio.testing.waiting import wait_until


def test_the_first_true_answer_is_returned() -> None:
    answers = iter([0, None, "now"])
    assert wait_until(lambda: next(answers)) == "now"


def test_a_passed_deadline_names_what_was_waited_for_and_the_last_answer() -> None:
    with pytest.raises(TimeoutError, match=r"Waited 0\.01 s for the engine; the last answer was \[\]"):
        wait_until(list, 0.01, what="the engine")
