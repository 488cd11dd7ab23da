"""What the answers of one connection count."""

from __future__ import annotations

import pytest

from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.engine.answers import FULL_AFTER_BYTES, FULL_AFTER_MESSAGES, Answers
from harmonicio.engine.peer import Peer
from harmonicio.transport import memory
from harmonicio.transport.link import Link
from harmonicio.wire.events import IncomingMessage, Role
from harmonicio.wire.outcomes import DONE


def test_a_message_whose_outputs_could_not_be_kept_is_no_progress() -> None:
    ours, theirs = memory.pair()
    answers = Answers(Link(ours, Role.ENGINE), Peer("master", is_backlog=True))
    for sequence, outcome in enumerate(
        (Outcome(OutcomeKind.DONE), Outcome.rejected(RejectReason.NOT_KEPT, "The tier is away."))
    ):
        message = IncomingMessage(sequence, f"m-{sequence}", 10)
        answers.message_granted()
        answers.message_handled(message, outcome)
    assert (answers.handled, answers.failed, answers.received_bytes) == (1, 0, 10)
    ours.close()
    theirs.close()


def test_the_answers_to_many_small_messages_are_sent_before_more_are_run() -> None:
    ours, theirs = memory.pair()
    answers = Answers(Link(ours, Role.ENGINE), Peer("source"))
    for sequence in range(FULL_AFTER_MESSAGES):
        assert not answers.is_full
        message = IncomingMessage(sequence, f"m-{sequence}", 10)
        answers.message_granted()
        answers.message_handled(message, DONE)
    assert answers.is_full
    answers.flush()
    assert not answers.is_full
    ours.close()
    theirs.close()


@pytest.mark.parametrize("is_backlog", [False, True])
def test_a_source_may_wait_for_room_and_the_master_does_not(is_backlog: bool) -> None:
    ours, theirs = memory.pair()
    answers = Answers(Link(ours, Role.ENGINE), Peer("sender", is_backlog=is_backlog))
    answers.message_granted()
    answers.message_handled(IncomingMessage(0, "m-0", FULL_AFTER_BYTES), DONE)
    assert answers.is_full is not is_backlog
    ours.close()
    theirs.close()
