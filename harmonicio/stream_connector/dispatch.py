"""Which message goes where: the connector's decisions, pure.

    offer ──► waiting ──credit of an engine──► in flight at an engine ──► done
                 │                                  │ failed, or its connection broke
                 │ patience over, or half of        ▼
                 └ the budget waits ──────────► for the backlog ──credit of the master──► in flight there ──► stored

Rules (DESIGN 1a.1 to 1a.3, 1a.7): messages go in the order in which they were offered, to the engine that has the least
to do among those with credit. After ``failed``, or when a connection breaks, a message goes to the backlog only.

No sockets, threads or clocks: ``now`` is monotonic seconds. The connector calls under its lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harmonicio.core.errors import RemoteProtocolError
from harmonicio.core.message import Failure, Metadata, Outcome, OutcomeKind, RejectReason
from harmonicio.wire.credit import SenderCredit
from harmonicio.wire.frames import Flag

MIN_PATIENCE_S = 0.05
#: What engines will have taken within this time, at the rate measured, is not worth the way over the master's disk.
DRAINS_SOON_S = 0.5
#: The rate is measured over at least, and believed for at most, so long.
RATE_EVERY_S, RATE_VALID_S = 0.02, 0.25
RETRY_AFTER_S = 0.5
#: What a message costs of the byte budget at least: its own bookkeeping.
MIN_COST_BYTES = 512


@dataclass(slots=True)
class Parcel:
    """A message with what must be known to send it, until it is safe.

    Attributes:
        delivery: The :class:`~harmonicio.stream_connector.delivery.Delivery` that the source application holds.
    """

    delivery: Any
    payload: memoryview
    metadata: Metadata | None = None
    priority: int = 0
    flags: int = 0
    attempts: int = 0
    crashes: int = 0
    failure: Failure | None = None
    offered_at: float = 0.0

    @property
    def size_bytes(self) -> int:
        return len(self.payload)

    @property
    def cost_bytes(self) -> int:
        return max(len(self.payload), MIN_COST_BYTES)


@dataclass(slots=True)
class Lane:
    """One connection to send on: an engine's, or the master's for the backlog."""

    name: str
    is_backlog: bool
    credit: SenderCredit = field(default_factory=SenderCredit)
    in_flight: dict[int, Parcel] = field(default_factory=dict)
    is_draining: bool = False
    credited_at: float | None = None
    active_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """Send this parcel on this lane next; ``sequence`` is its number on the connection."""

    lane: Lane
    parcel: Parcel
    sequence: int


@dataclass(frozen=True, slots=True)
class Settled:
    """What an outcome means: the parcel is safe, or rejected for good."""

    parcel: Parcel
    outcome: Outcome
    is_backlog: bool


class Dispatch:
    """The messages of one connector that are not safe yet.

    Args:
        budget_bytes: What may wait; when half of it waits, patience is 50 ms at most.
        patience_s: How long a message waits for an engine; None measures: the larger of 50 ms and twice the interval
            between credits. Nobody is impatient while engines take everything that waits within half a second.
    """

    def __init__(self, budget_bytes: int, patience_s: float | None = None) -> None:
        self._budget_bytes = budget_bytes
        self._patience_s = patience_s
        self._credit_interval_s = 0.0
        self._messages_per_s = 0.0
        self._answered_since = 0
        self._measured_at = float("-inf")
        self._waiting: deque[Parcel] = deque()
        self._for_backlog: deque[Parcel] = deque()
        self._backlog_pauses_until = 0.0
        self._engines: list[Lane] = []
        self._backlog: Lane | None = None
        self.used_bytes = 0
        self.waiting_bytes = 0
        self.resent = 0

    def __repr__(self) -> str:
        return f"<Dispatch: {self.waiting} waiting, {self.used_bytes} bytes, {len(self._engines)} engines>"

    @property
    def waiting(self) -> int:
        """Messages that no receiver has credit for yet."""
        return len(self._waiting) + len(self._for_backlog)

    @property
    def engines(self) -> tuple[Lane, ...]:
        return tuple(self._engines)

    @property
    def wants_engines(self) -> bool:
        """Whether there is more to send than the leases take."""
        return bool(self._waiting)

    @property
    def patience_s(self) -> float:
        if self._patience_s is not None:
            return self._patience_s
        return max(MIN_PATIENCE_S, 2 * self._credit_interval_s)

    def wants_backlog(self, now: float) -> bool:
        """Whether a connection to the master's data port is needed."""
        return self._backlog is None and (bool(self._for_backlog) or self._is_impatient(now))

    def has_room(self, cost_bytes: int) -> bool:
        """Whether the byte budget admits one more message; a single one is always admitted."""
        return self.used_bytes == 0 or self.used_bytes + cost_bytes <= self._budget_bytes

    def next_due_s(self, now: float) -> float | None:
        """Seconds until waiting alone changes a decision; None when only an event can."""
        due_at = [self._backlog_pauses_until] if self._for_backlog else []
        if self._waiting:
            due_at += [self._waiting[0].offered_at + self._limit_s, self._measured_at + RATE_VALID_S]
        return min((at - now for at in due_at if at > now), default=None)

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def offer(self, parcel: Parcel, now: float) -> None:
        """Take a message in."""
        parcel.offered_at = now
        self.used_bytes += parcel.cost_bytes
        self.waiting_bytes += parcel.cost_bytes
        self._waiting.append(parcel)

    def lane_opened(self, lane: Lane, now: float) -> None:
        lane.active_at = now
        if lane.is_backlog:
            self._backlog = lane
        else:
            self._engines.append(lane)

    def credit_received(self, lane: Lane, messages: int, size_bytes: int, now: float) -> None:
        lane.credit.granted(messages, size_bytes)
        if not lane.is_backlog:
            if lane.credited_at is not None:
                interval_s = now - lane.credited_at
                self._credit_interval_s += 0.2 * (interval_s - self._credit_interval_s)
            lane.credited_at = now

    def _answered(self, count: int, now: float) -> None:
        """Measure how fast engines answer."""
        self._answered_since += count
        elapsed_s = now - self._measured_at
        if elapsed_s >= RATE_EVERY_S:
            rate = self._answered_since / elapsed_s
            is_recent = elapsed_s < RATE_VALID_S
            self._messages_per_s = (self._messages_per_s + rate) / 2 if is_recent and self._messages_per_s else rate
            self._answered_since, self._measured_at = 0, now

    def take_back(self, given: Assignment) -> None:
        """An assignment will not be sent: its number is free again. Only the newest of a lane can be taken back."""
        credit = given.lane.credit
        credit.sent -= 1
        credit.sent_bytes -= given.parcel.size_bytes
        del given.lane.in_flight[given.sequence]
        self.used_bytes -= given.parcel.cost_bytes

    def draining(self, lane: Lane) -> None:
        """The receiver takes no new messages; what it has is still answered."""
        lane.is_draining = True

    def outcomes_received(self, lane: Lane, first: int, last: int, outcome: Outcome, now: float) -> list[Settled]:
        """Take the answers to the messages ``first`` to ``last``.

        Raises:
            RemoteProtocolError: they answer what is not in flight on this lane.
        """
        lane.credit.outcomes_received(first, last)
        lane.active_at = now
        if not lane.is_backlog:
            self._answered(last - first + 1, now)
        settled = []
        for sequence in range(first, last + 1):
            parcel = lane.in_flight.pop(sequence, None)
            if parcel is None:
                raise RemoteProtocolError(f"Message {sequence} is answered twice.")
            if self._is_settled_by(lane, parcel, outcome, now):
                self.used_bytes -= parcel.cost_bytes
                settled.append(Settled(parcel, outcome, lane.is_backlog))
        return settled

    def lane_closed(self, lane: Lane, now: float) -> None:
        """The connection ended: what was in flight is sent again, by way of the backlog."""
        if lane.is_backlog:
            self._backlog = None if self._backlog is lane else self._backlog
        elif lane in self._engines:
            self._engines.remove(lane)
        for parcel in reversed(lane.in_flight.values()):
            if not lane.is_backlog:
                parcel.flags |= Flag.SUSPECT
            self.resent += 1
            self._return(self._for_backlog, parcel)
        lane.in_flight.clear()

    def withdraw_all(self) -> list[Parcel]:
        """Give up everything that is not safe; the connector closes."""
        parcels = [*self._waiting, *self._for_backlog]
        for lane in (*self._engines, *([self._backlog] if self._backlog else [])):
            parcels += lane.in_flight.values()
            lane.in_flight.clear()
        self._waiting.clear()
        self._for_backlog.clear()
        self.used_bytes = self.waiting_bytes = 0
        return parcels

    def _is_settled_by(self, lane: Lane, parcel: Parcel, outcome: Outcome, now: float) -> bool:
        if outcome.kind in (OutcomeKind.DONE, OutcomeKind.STORED):
            return True
        if outcome.kind is OutcomeKind.FAILED:
            self._hand_to_master(parcel, outcome.failure)
            return False
        if outcome.reason is not None and outcome.reason.is_final:
            return True
        self.resent += 1
        if lane.is_backlog:
            if outcome.reason is not RejectReason.CHECKSUM:
                self._backlog_pauses_until = now + RETRY_AFTER_S
            self._return(self._for_backlog, parcel)
        else:
            lane.is_draining = lane.is_draining or outcome.reason is RejectReason.DRAINING
            self._return(self._waiting, parcel)
        return False

    def _hand_to_master(self, parcel: Parcel, failure: Failure | None) -> None:
        parcel.attempts += 1
        parcel.failure = failure if failure is not None else Failure("Unknown", "The engine did not say why.")
        if not parcel.failure.retryable:
            parcel.flags |= Flag.DEAD
        self._return(self._for_backlog, parcel)

    def _return(self, queue: deque[Parcel], parcel: Parcel) -> None:
        self.waiting_bytes += parcel.cost_bytes
        queue.appendleft(parcel)

    # ── decisions ────────────────────────────────────────────────────────────────────────────────────────────────────

    def assign(self, now: float) -> Iterator[Assignment]:
        """Give what waits to whoever has credit; each assignment is in force when it is given out."""
        while self._for_backlog and (given := self._to_backlog(self._for_backlog, now)) is not None:
            yield given
        while self._waiting:
            lane = self._best_engine(self._waiting[0].size_bytes)
            if lane is not None:
                yield self._send(lane, self._waiting.popleft(), now)
                continue
            given = self._to_backlog(self._waiting, now) if self._is_impatient(now) else None
            if given is None:
                return
            yield given

    def _best_engine(self, size_bytes: int) -> Lane | None:
        best = None
        for lane in self._engines:
            is_able = not lane.is_draining and lane.credit.can_send(size_bytes)
            if is_able and (best is None or lane.credit.outstanding < best.credit.outstanding):
                best = lane
        return best

    @property
    def _limit_s(self) -> float:
        """How long the oldest message may wait."""
        is_crowded = self.waiting_bytes >= self._budget_bytes / 2
        return min(MIN_PATIENCE_S, self.patience_s) if is_crowded else self.patience_s

    def _is_impatient(self, now: float) -> bool:
        if not self._waiting or now - self._waiting[0].offered_at < self._limit_s:
            return False
        is_measured = now - self._measured_at < RATE_VALID_S and self._messages_per_s > 0
        return not is_measured or len(self._waiting) / self._messages_per_s > DRAINS_SOON_S

    def _to_backlog(self, queue: deque[Parcel], now: float) -> Assignment | None:
        lane = self._backlog
        if lane is None or lane.is_draining or now < self._backlog_pauses_until:
            return None
        return self._send(lane, queue.popleft(), now) if lane.credit.can_send(queue[0].size_bytes) else None

    def _send(self, lane: Lane, parcel: Parcel, now: float) -> Assignment:
        sequence = lane.credit.message_sent(parcel.size_bytes)
        lane.in_flight[sequence] = parcel
        lane.active_at = now
        self.waiting_bytes -= parcel.cost_bytes
        return Assignment(lane, parcel, sequence)
