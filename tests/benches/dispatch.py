"""A connector's dispatch with nobody at the other end: what it would send, and to whom."""

from __future__ import annotations

from harmonicio.core.message import Failure, Outcome, OutcomeKind
from harmonicio.stream_connector.delivery import Delivery
from harmonicio.stream_connector.dispatch import (
    Dispatch,
)
from harmonicio.stream_connector.lanes import Lane, Parcel

FAILED = Outcome(OutcomeKind.FAILED, failure=Failure("ValueError", "bad"))
FAILED_FOR_GOOD = Outcome(OutcomeKind.FAILED, failure=Failure("ValueError", "bad", retryable=False))


class Nobody:
    """A delivery's owner that is never asked."""

    def await_outcome(self, delivery: Delivery, timeout_s: float | None) -> None:
        raise AssertionError("Nobody waits here.")


class Bench:
    """A dispatch, with the clock in the test's hand."""

    def __init__(self, budget_bytes: int = 10**6, patience_s: float | None = None) -> None:
        self.dispatch = Dispatch(budget_bytes, patience_s, jitter=lambda: 1.0)
        self.now = 100.0
        self._offered = 0

    def lane(self, *, is_backlog: bool = False, messages: int = 0, size: int = 10**6, limit: int = 10**9) -> Lane:
        lane = Lane("master" if is_backlog else "engine", is_backlog=is_backlog, max_message_bytes=limit)
        self.dispatch.lane_opened(lane, self.now)
        if messages:
            self.credit(lane, messages, size)
        return lane

    def credit(self, lane: Lane, messages: int, size: int = 10**6) -> list[Lane]:
        self.dispatch.credit_received(lane, messages, size, self.now)
        return self.dispatch.assign(self.now)

    def offer(self, size: int = 1000, priority: int = 0) -> Parcel:
        self.now += 1e-6
        parcel = Parcel(Delivery(Nobody(), f"m-{self._offered}", size), None, priority=priority)
        self._offered += 1
        self.dispatch.offer(parcel, self.now)
        self.dispatch.assign(self.now)
        return parcel

    def wait(self, seconds: float) -> list[Lane]:
        self.now += seconds
        return self.dispatch.assign(self.now)

    def answer(self, lane: Lane, sequence: int, outcome: Outcome) -> None:
        self.dispatch.outcomes_received(lane, sequence, sequence, outcome, self.now)
        self.dispatch.assign(self.now)

    def written(self, lane: Lane) -> list[Parcel]:
        """Take what the connection writes."""
        taken = list(lane.outbox)
        lane.outbox.clear()
        lane.begun += len(taken)
        return taken
