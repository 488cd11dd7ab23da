"""The dispatch over a tiny network that hypothesis plays: whatever happens, each message comes to rest once."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from harmonicio.core.message import Failure, Outcome, OutcomeKind, RejectReason
from harmonicio.stream_connector.delivery import Delivery
from harmonicio.stream_connector.dispatch import Dispatch
from harmonicio.stream_connector.lanes import Lane, Parcel
from harmonicio.wire.outcomes import DONE, STORED

BUDGET_BYTES = 20_000
SIZES = st.sampled_from([0, 1, 600, 5_000, 30_000])
MAX_MESSAGE_BYTES = 25_000


class Nobody:
    """A delivery's owner that is never asked."""

    def await_outcome(self, delivery: Delivery, timeout_s: float | None) -> None:
        raise AssertionError("Nobody waits here.")


@dataclass
class Receiver:
    """The other end of a lane: what it granted, what it holds, and what it has seen."""

    lane: Lane
    messages_total: int = 0
    bytes_total: int = 0
    received: int = 0
    received_bytes: int = 0
    answered: int = 0
    holds: dict[int, Parcel] = field(default_factory=dict)

    def take_written(self, count: int) -> None:
        """The connection writes messages; what arrives must be within the credit."""
        for _ in range(min(count, len(self.lane.outbox))):
            parcel = self.lane.outbox.popleft()
            self.lane.begun += 1
            is_alone = self.received == self.answered
            self.received_bytes += parcel.size_bytes
            assert self.received < self.messages_total
            assert is_alone or self.received_bytes <= self.bytes_total
            self.holds[self.received] = parcel
            self.received += 1


class TinyNetwork(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.now = 1_000.0
        self.dispatch = Dispatch(BUDGET_BYTES, jitter=lambda: 0.5)
        self.engines: list[Receiver] = []
        self.master: Receiver | None = None
        self.offered: list[Parcel] = []
        self.settled: dict[str, Outcome] = {}
        self.numbers = iter(range(10**6))
        self.processed: set[str] = set()
        self.stored: set[str] = set()

    # ── what the connector does ──────────────────────────────────────────────────────────────────────────────────────

    def advance(self) -> None:
        lanes = self.dispatch.assign(self.now)
        assert len(lanes) == len(set(lanes))
        for settled in self.dispatch.take_settled():
            for parcel in settled.parcels:
                message_id = parcel.delivery.message_id
                assert message_id not in self.settled, "a message came to rest twice"
                self.settled[message_id] = settled.outcome

    @rule(size=SIZES, priority=st.integers(-1, 1))
    def offer(self, size: int, priority: int) -> None:
        parcel = Parcel(Delivery(Nobody(), f"m-{next(self.numbers)}", size), None, priority=priority)
        if self.dispatch.has_room(parcel.cost_bytes):
            self.dispatch.offer(parcel, self.now)
            self.offered.append(parcel)
            self.advance()

    # ── what the network does ────────────────────────────────────────────────────────────────────────────────────────

    def receivers(self) -> list[Receiver]:
        return [*self.engines, *([self.master] if self.master else [])]

    @precondition(lambda self: len(self.engines) < 3)
    @rule()
    def an_engine_connects(self) -> None:
        lane = Lane(f"e-{next(self.numbers)}", is_backlog=False, max_message_bytes=MAX_MESSAGE_BYTES)
        self.engines.append(Receiver(lane))
        self.dispatch.lane_opened(lane, self.now)
        self.advance()

    @precondition(lambda self: self.master is None)
    @rule()
    def the_master_connects(self) -> None:
        lane = Lane("master", is_backlog=True, max_message_bytes=MAX_MESSAGE_BYTES)
        self.master = Receiver(lane)
        self.dispatch.lane_opened(lane, self.now)
        self.advance()

    @precondition(lambda self: self.receivers())
    @rule(data=st.data(), messages=st.integers(0, 4), size=st.sampled_from([0, 1_000, 20_000]))
    def credit(self, data: st.DataObject, messages: int, size: int) -> None:
        receiver = data.draw(st.sampled_from(self.receivers()))
        receiver.messages_total = max(receiver.messages_total, receiver.answered + messages)
        receiver.bytes_total += size
        self.dispatch.credit_received(receiver.lane, receiver.messages_total, receiver.bytes_total, self.now)
        self.advance()

    @precondition(lambda self: self.receivers())
    @rule(data=st.data(), count=st.integers(1, 3))
    def bytes_move(self, data: st.DataObject, count: int) -> None:
        data.draw(st.sampled_from(self.receivers())).take_written(count)

    @precondition(lambda self: any(receiver.lane.outbox for receiver in self.receivers()))
    @rule(data=st.data(), is_for_good=st.booleans())
    def the_next_cannot_be_read(self, data: st.DataObject, is_for_good: bool) -> None:
        receiver = data.draw(st.sampled_from([each for each in self.receivers() if each.lane.outbox]))
        lane, parcel = receiver.lane, receiver.lane.outbox[0]
        parcel.is_away, parcel.trouble = not is_for_good, "It has changed." if is_for_good else ""
        begun = {sequence: each for sequence, each in lane.in_flight.items() if sequence < lane.begun}
        self.dispatch.unreadable(lane, self.now)
        assert lane.in_flight == begun, "what was not begun is given out anew, the rest is not touched"
        assert not lane.outbox
        assert not parcel.is_away
        self.advance()
        assert parcel not in lane.outbox
        assert self.dispatch.waiting or parcel.delivery.message_id in self.settled

    @precondition(lambda self: any(receiver.holds for receiver in self.receivers()))
    @rule(data=st.data(), kind=st.sampled_from(["good", "good", "failed", "dead", "again", "final"]))
    def answer(self, data: st.DataObject, kind: str) -> None:
        receiver = data.draw(st.sampled_from([each for each in self.receivers() if each.holds]))
        sequence = data.draw(st.sampled_from(sorted(receiver.holds)))
        is_master = receiver is self.master
        parcel = receiver.holds.pop(sequence)
        receiver.answered += 1
        outcome = STORED if is_master else DONE
        if kind in ("failed", "dead") and not is_master:
            outcome = Outcome(OutcomeKind.FAILED, failure=Failure("E", "text", retryable=kind == "failed"))
        elif kind == "again":
            reason = data.draw(st.sampled_from([each for each in RejectReason if not each.is_final]))
            outcome = Outcome(OutcomeKind.REJECTED, reason=reason)
        elif kind == "final":
            outcome = Outcome(OutcomeKind.REJECTED, reason=RejectReason.ID_CONFLICT)
        (self.stored if outcome is STORED else self.processed if outcome is DONE else set()).add(
            parcel.delivery.message_id
        )
        self.dispatch.outcomes_received(receiver.lane, sequence, sequence, outcome, self.now)
        self.advance()

    @precondition(lambda self: self.receivers())
    @rule(data=st.data())
    def a_connection_ends(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.receivers())))

    def end(self, receiver: Receiver) -> None:
        held = list(receiver.holds.values())
        self.dispatch.lane_closed(receiver.lane, self.now)
        if receiver is self.master:
            self.master = None
        else:
            self.engines.remove(receiver)
            assert all(parcel.is_for_master for parcel in held), "an engine may have begun it: the master decides"
        self.advance()

    @precondition(lambda self: self.receivers())
    @rule(data=st.data())
    def a_receiver_drains(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.receivers())).lane.is_draining = True

    @rule(seconds=st.sampled_from([0.001, 0.06, 1.0, 1300.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.advance()
        for lane in self.dispatch.overdue(self.now):
            self.end(next(each for each in self.receivers() if each.lane is lane))

    # ── what must hold ───────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def nothing_is_stranded_and_the_budget_is_kept(self) -> None:
        open_parcels = [each for each in self.offered if each.delivery.message_id not in self.settled]
        in_flight = sum(len(receiver.lane.in_flight) for receiver in self.receivers())
        assert in_flight + self.dispatch.waiting == len(open_parcels)
        assert self.dispatch.used_bytes == sum(parcel.cost_bytes for parcel in open_parcels)
        assert self.dispatch.used_bytes <= BUDGET_BYTES or len(open_parcels) == 1
        assert 0 <= self.dispatch.waiting_bytes <= self.dispatch.used_bytes

    @invariant()
    def whoever_can_take_the_next_message_has_it(self) -> None:
        waiting = self.dispatch._waiting
        able = [lane for lane in self.dispatch.engines if not lane.is_draining]
        assert not waiting or not any(lane.credit.can_send(waiting.first.size_bytes) for lane in able)

    @invariant()
    def what_is_due_lies_ahead(self) -> None:
        due_s = self.dispatch.next_due_s(self.now)
        assert due_s is None or due_s > 0, "a pump that is told to look at once, for ever, spins"

    def teardown(self) -> None:
        """In the end everything is reachable and willing: then everything becomes safe, and most of it is."""
        if not hasattr(self, "dispatch"):
            return
        for receiver in self.receivers():
            self.end(receiver)
        self.the_master_connects()
        assert self.master is not None
        for _ in range(3 * len(self.offered) + 3):
            self.now += 1.0
            self.master.messages_total = self.master.answered + 10
            self.master.bytes_total = self.master.received_bytes + 10**6
            self.dispatch.credit_received(
                self.master.lane, self.master.messages_total, self.master.bytes_total, self.now
            )
            self.advance()
            self.master.take_written(10)
            for sequence in sorted(self.master.holds):
                del self.master.holds[sequence]
                self.master.answered += 1
                self.dispatch.outcomes_received(self.master.lane, sequence, sequence, STORED, self.now)
            self.advance()
        assert self.settled.keys() == {parcel.delivery.message_id for parcel in self.offered}
        assert self.dispatch.used_bytes == self.dispatch.waiting_bytes == self.dispatch.waiting == 0
        assert self.dispatch.unreadable_s(0, self.now) == 0.0, "what has come to rest is not remembered"
        assert self.dispatch.withdraw_all() == []


TestTinyNetwork = TinyNetwork.TestCase
TestTinyNetwork.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
