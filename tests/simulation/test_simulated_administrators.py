"""What the auditor allows because of what somebody did, and what it does not."""

from __future__ import annotations

import pytest

from benches.auditor import DEAD, PROCESSED, SHED, WAITING, Auditor


@pytest.fixture
def auditor() -> Auditor:
    auditor = Auditor()
    auditor.sent("m1", "d1")
    auditor.told_safe("m1", "stored")
    auditor.told_end("m1", DEAD)
    return auditor


def process(auditor: Auditor) -> None:
    auditor.found("m1", PROCESSED)
    auditor.effect("m1", "d1")


def test_a_dead_letter_that_nobody_purged_is_missed(auditor: Auditor) -> None:
    assert any("is nowhere" in each for each in auditor.violations())
    auditor.replayed("m1")
    assert any("is nowhere" in each for each in auditor.violations())
    auditor.purged("m1")
    assert auditor.violations() == []


def test_a_dead_letter_is_processed_only_after_a_replay(auditor: Auditor) -> None:
    process(auditor)
    assert auditor.violations() == ["message 'm1' was called dead and is processed"]
    auditor.replayed("m1")
    assert auditor.violations() == []


def test_a_replayed_message_is_in_one_place(auditor: Auditor) -> None:
    auditor.replayed("m1")
    process(auditor)
    auditor.found("m1", DEAD)
    assert any("more than one place" in each for each in auditor.violations())


def test_other_bytes_may_be_offered_before_those_of_the_owner() -> None:
    auditor = Auditor()
    auditor.sent_others("m1", "d2")
    auditor.sent("m1", "d1")
    auditor.found("m1", PROCESSED)
    auditor.effect("m1", "d2")
    assert auditor.violations() == []
    auditor.executed("m1", "d3")
    assert any("reached a handler with other bytes" in each for each in auditor.violations())


def test_what_was_shed_may_have_come_again_and_be_in_one_other_place() -> None:
    auditor = Auditor()
    auditor.sent("m1", "d1")
    auditor.told_safe("m1", "stored")
    auditor.told_end("m1", SHED)
    auditor.found("m1", SHED)
    assert auditor.violations() == []
    auditor.found("m1", WAITING)
    assert auditor.violations() == []
    auditor.found("m1", DEAD)
    assert any("more than one place: dead, waiting" in each for each in auditor.violations())


def test_who_is_told_that_a_message_was_shed_finds_a_record_of_it() -> None:
    auditor = Auditor()
    auditor.sent("m1", "d1")
    auditor.told_end("m1", SHED)
    auditor.found("m1", WAITING)
    assert auditor.violations() == ["message 'm1' was called shed and is waiting"]
