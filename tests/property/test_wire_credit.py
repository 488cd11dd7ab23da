"""Credit seen from both ends: what the sender may send is within the credit at the receiver, whatever the delays."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from harmonicio.core.errors import RemoteProtocolError
from harmonicio.wire.credit import ReceiverCredit, SenderCredit


class CreditMachine(RuleBasedStateMachine):
    """Both ends of one connection, with frames that are under way in either direction for any time."""

    def __init__(self) -> None:
        super().__init__()
        self.sender = SenderCredit()
        self.receiver = ReceiverCredit()
        self.messages: deque[int] = deque()
        self.frames: deque[tuple[str, int, int]] = deque()
        self.unanswered: dict[int, int] = {}
        self.arrived = 0

    @rule(messages=st.integers(0, 5), size_bytes=st.integers(0, 100))
    def the_receiver_grants_more(self, messages: int, size_bytes: int) -> None:
        receiver = self.receiver
        if receiver.grant(receiver.answered + messages, receiver.answered_bytes + size_bytes):
            self.frames.append(("credit", receiver.messages_total, receiver.bytes_total))

    @rule(size_bytes=st.integers(0, 150))
    def the_sender_sends_when_it_may(self, size_bytes: int) -> None:
        if self.sender.can_send(size_bytes):
            assert self.sender.message_sent(size_bytes) == self.sender.sent - 1
            self.messages.append(size_bytes)

    @precondition(lambda self: self.messages)
    @rule()
    def a_message_arrives_within_the_credit(self) -> None:
        size_bytes = self.messages.popleft()
        assert self.receiver.message_received(size_bytes)
        self.unanswered[self.arrived] = size_bytes
        self.arrived += 1

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def the_receiver_answers_in_any_order(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.unanswered)))
        self.receiver.message_answered(self.unanswered.pop(number))
        self.frames.append(("outcomes", number, number))

    @precondition(lambda self: self.frames)
    @rule()
    def a_frame_reaches_the_sender(self) -> None:
        kind, first, second = self.frames.popleft()
        if kind == "credit":
            self.sender.granted(first, second)
        else:
            self.sender.outcomes_received(first, second)

    @invariant()
    def the_ends_never_contradict_each_other(self) -> None:
        assert self.sender.messages_total <= self.receiver.messages_total
        assert self.sender.bytes_total <= self.receiver.bytes_total
        assert self.sender.sent == self.receiver.received + len(self.messages)
        assert self.receiver.outstanding <= self.sender.outstanding <= self.sender.messages_total
        assert self.sender.outstanding == len(self.messages) + len(self.unanswered) + sum(
            kind == "outcomes" for kind, *_ in self.frames
        )


TestCredit = CreditMachine.TestCase


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), max_size=10))
def test_totals_never_fall_in_whatever_order_credit_comes(grants: list[tuple[int, int]]) -> None:
    sender, receiver = SenderCredit(), ReceiverCredit()
    for messages, size_bytes in grants:
        before = receiver.messages_total, receiver.bytes_total
        is_due = receiver.grant(messages, size_bytes)
        after = receiver.messages_total, receiver.bytes_total
        assert is_due == (after != before) and after >= before
        sender.granted(messages, size_bytes)
    assert (sender.messages_total, sender.bytes_total) == (receiver.messages_total, receiver.bytes_total)


def test_a_message_above_the_bytes_is_admitted_alone() -> None:
    sender, receiver = SenderCredit(), ReceiverCredit()
    receiver.grant(2, 10)
    sender.granted(2, 10)
    assert sender.can_send(1000)
    sender.message_sent(1000)
    assert not sender.can_send(0)
    assert receiver.message_received(1000)
    receiver.message_answered(1000)
    sender.outcomes_received(0, 0)
    assert sender.can_send(1000)


def test_a_message_beyond_the_credit_is_noticed() -> None:
    receiver = ReceiverCredit()
    assert not receiver.message_received(0)
    receiver.grant(3, 100)
    assert not receiver.message_received(101)
    receiver.message_answered(0)
    receiver.message_answered(101)
    assert receiver.message_received(101)


@pytest.mark.parametrize(("first", "last"), [(0, 2), (2, 2), (1, 5), (0, 2**62)])
def test_answers_to_what_was_not_sent_break_the_protocol(first: int, last: int) -> None:
    sender = SenderCredit()
    sender.granted(10, 10)
    sender.message_sent(1)
    sender.message_sent(1)
    with pytest.raises(RemoteProtocolError, match="only 2 were sent"):
        sender.outcomes_received(first, last)


def test_more_answers_than_messages_break_the_protocol() -> None:
    sender = SenderCredit()
    sender.granted(10, 10)
    sender.message_sent(1)
    sender.message_sent(1)
    sender.outcomes_received(0, 1)
    with pytest.raises(RemoteProtocolError):
        sender.outcomes_received(1, 1)
