"""Results and exceptions as outcomes."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from harmonicio.core.errors import ConnectionEnded, InvalidInput, StorageError
from harmonicio.core.message import MAX_RESULT_BYTES, Outcome, OutcomeKind
from harmonicio.engine.handler import Handler
from harmonicio.engine.message import Message
from harmonicio.engine.outputs import failure_of, outcome_of
from harmonicio.engine.slots import Slot
from harmonicio.engine.work import Work
from harmonicio.wire.codec import unpack
from harmonicio.wire.outcomes import DONE


def run(function: Any) -> Outcome:
    work = Work(Handler(function, None, None, False, "test"), {}, deliver=lambda emissions, returned_at: None)
    return work.run(Message("m", "cells", memoryview(b"")), Slot(0))[0]


def test_none_is_done_and_always_the_same_object_so_that_neighbours_share_a_range() -> None:
    assert outcome_of(None) == (DONE, b"")
    assert outcome_of(None)[0] is DONE


@pytest.mark.parametrize("result", [0, 1.5, "text", b"bytes", [1, [2]], {"a": {"b": None}}, True])
def test_a_plain_result_travels_with_done(result: Any) -> None:
    outcome, detail = outcome_of(result)
    assert (outcome.kind, outcome.result) == (OutcomeKind.DONE, result)
    assert unpack(detail) == result


@pytest.mark.parametrize("result", [object(), {1, 2}, {1: "number as key"}, numpy.zeros(3), numpy.int64(3), 2**70])
def test_a_result_that_cannot_be_sent_is_a_failure_that_says_what_to_do(result: Any) -> None:
    outcome, _ = outcome_of(result)
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.failure is not None
    assert not outcome.failure.retryable
    assert type(result).__name__ in outcome.failure.text
    assert "Store it" in outcome.failure.text


def test_a_result_may_have_64_kib_and_no_more() -> None:
    assert outcome_of(bytes(MAX_RESULT_BYTES - 10))[0].kind is OutcomeKind.DONE
    outcome, _ = outcome_of(bytes(MAX_RESULT_BYTES + 1))
    assert outcome.failure is not None
    assert "at most 65536 can be sent" in outcome.failure.text


def test_an_exception_becomes_a_failure_whose_traceback_begins_with_the_users_code() -> None:
    def broken(message: Any) -> None:
        raise ValueError("not an image")

    outcome = run(broken)
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.failure is not None
    assert (outcome.failure.error_type, outcome.failure.text) == ("ValueError", "not an image")
    assert outcome.failure.retryable
    assert "in broken" in outcome.failure.traceback
    assert "harmonicio/engine/work.py" not in outcome.failure.traceback


@pytest.mark.parametrize(
    ("error", "is_retryable"),
    [
        (RuntimeError("x"), True),
        (InvalidInput("x"), False),
        (StorageError("x"), True),
        (ConnectionEnded("x"), True),
    ],
)
def test_an_exception_says_itself_whether_another_attempt_is_worth_while(error: Exception, is_retryable: bool) -> None:
    failure = failure_of(error).failure
    assert failure is not None
    assert failure.retryable is is_retryable


def test_a_result_is_packed_before_the_handler_can_change_it() -> None:
    kept = {"n": 1}
    _, detail = outcome_of(kept)
    kept["n"] = 2
    assert unpack(detail) == {"n": 1}


def test_a_handler_that_calls_exit_fails_for_its_message_only() -> None:
    def leaves(message: Any) -> None:
        raise SystemExit(1)

    outcome = run(leaves)
    assert outcome.failure is not None
    assert outcome.failure.error_type == "SystemExit"


def test_an_exception_that_cannot_be_shown_is_still_a_failure() -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    failure = failure_of(Nasty()).failure
    assert failure is not None
    assert failure.error_type == "Nasty"
