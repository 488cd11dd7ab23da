"""Outcomes share ranges, and a batch always fits into frames."""

from __future__ import annotations

import pytest

from harmonicio.core.errors import InvalidInput
from harmonicio.core.message import MAX_RESULT_BYTES, Failure, Outcome, OutcomeKind, RejectReason
from harmonicio.wire.codec import pack_value
from harmonicio.wire.decoder import Decoder, Frame
from harmonicio.wire.events import OutcomeRange
from harmonicio.wire.outcomes import DONE, STORED, OutcomeBatch
from harmonicio.wire.sections import read_outcomes


def ranges_in(frames: bytes) -> list[OutcomeRange]:
    decoder, rest, found = Decoder(), memoryview(frames), []
    while len(rest):
        rest = rest[decoder.feed(rest) :]
        while (frame := decoder.next_frame()) is not None:
            assert isinstance(frame, Frame)
            found += read_outcomes(frame.section).ranges
    return found


def test_neighbours_with_the_same_outcome_share_a_range() -> None:
    batch = OutcomeBatch()
    for number in (0, 1, 2, 5, 6):
        batch.add(number, DONE)
    batch.add(7, STORED)
    assert ranges_in(batch.take_frame()) == [
        OutcomeRange(0, 2, DONE),
        OutcomeRange(5, 6, DONE),
        OutcomeRange(7, 7, STORED),
    ]
    assert not batch


def test_a_batch_is_full_before_it_is_large() -> None:
    batch, added = OutcomeBatch(), 0
    while not batch.is_full:
        batch.add(added, Outcome(OutcomeKind.DONE, result=bytes(MAX_RESULT_BYTES)))
        added += 1
    assert added == 2
    for number in range(0, 20_000, 2):
        batch.add(number, DONE)
    assert batch.is_full


def test_a_batch_that_nobody_sent_in_time_still_arrives() -> None:
    batch = OutcomeBatch()
    outcomes = [Outcome(OutcomeKind.DONE, result=bytes([at]) * MAX_RESULT_BYTES) for at in range(20)]
    rejected = Outcome(OutcomeKind.REJECTED, reason=RejectReason.BACKLOG_FULL, text="Full. " * 10)
    for number, outcome in enumerate(outcomes):
        batch.add(number, outcome)
    for number in range(100, 10_000, 2):
        batch.add(number, rejected)
    found = ranges_in(batch.take_frame())
    assert [item.outcome for item in found[:20]] == outcomes
    assert len(found) == 20 + 4950 and found[-1].outcome == rejected


@pytest.mark.parametrize("result", [{1: 2}, object(), bytes(200_000)], ids=["int key", "object", "too large"])
def test_an_outcome_that_cannot_be_sent_is_not_added(result: object) -> None:
    batch = OutcomeBatch()
    batch.add(0, DONE)
    with pytest.raises(InvalidInput):
        batch.add(1, Outcome(OutcomeKind.DONE, result=result))
    assert ranges_in(batch.take_frame()) == [OutcomeRange(0, 0, DONE)]


def test_what_happens_to_a_result_after_it_was_added_changes_and_breaks_nothing() -> None:
    batch, result = OutcomeBatch(), {"n": 1}
    batch.add(0, Outcome(OutcomeKind.DONE, result=result))
    batch.add(1, DONE)
    result["n"] = object()  # type: ignore[assignment]
    first, second = ranges_in(batch.take_frame())
    assert (first.outcome.result, second.outcome) == ({"n": 1}, DONE)


def test_a_detail_that_is_packed_already_is_sent_as_it_is() -> None:
    batch = OutcomeBatch()
    batch.add(0, Outcome(OutcomeKind.DONE, result=object()), pack_value([1, "two"]))
    (found,) = ranges_in(batch.take_frame())
    assert found.outcome.result == [1, "two"]


def test_the_end_of_a_long_traceback_is_kept() -> None:
    batch = OutcomeBatch()
    failure = Failure("E" * 1000, "t" * 100_000, "…" * 100_000 + "the last line")
    batch.add(0, Outcome(OutcomeKind.FAILED, failure=failure))
    (found,) = ranges_in(batch.take_frame())
    assert found.outcome.failure is not None
    assert found.outcome.failure.traceback.endswith("the last line")
    assert found.outcome.failure.text == "t" * 4000


def test_a_failure_may_speak_of_an_undecodable_file_name() -> None:
    batch = OutcomeBatch()
    batch.add(0, Outcome(OutcomeKind.FAILED, failure=Failure("OSError", "no file 'caf\udce9.tif'")))
    (found,) = ranges_in(batch.take_frame())
    assert found.outcome.failure == Failure("OSError", r"no file 'caf\udce9.tif'")
