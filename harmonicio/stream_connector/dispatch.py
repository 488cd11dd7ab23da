"""Which message goes where: the connector's decisions, pure.

    offer ──► waiting ──credit of an engine──► in flight at an engine ──► done
                 │  ▲                               │    │
                 │  └── rejected, not final ────────┘    │ failed, or its connection broke
                 │      (the second time: after a pause) │
                 │ patience over                         ▼
                 └─────────────────────────────► for the master ──credit──► in flight there ──► stored

Rules (1 to 3 and 12 of docs/guarantees.md):

- Messages go by priority, then in the order in which they were offered, to the engine with the least to do among those
  with credit. Who had the last has the next, too, while its credit and its answers show that it has done what it has
  before another would have woken up, or while small ones leave together.
- Where there is another engine, or may be one, an engine that was idle gets some messages, whatever its credit, and
  more only as it answers: slow messages must not pile up where quick ones went before.
- A message goes to the backlog when its patience is over, which is shorter when half of the byte budget waits; but not
  while the engines take everything that waits within half a second (decision 4).
- What an engine failed, or may have begun when its connection broke, goes to the master only; so does what the master
  may have stored already. What never left goes on as if nothing had happened.
- A message that is rejected again and again is held back a while before it is sent again, others are not; the third
  time it goes to the master only, which keeps it for as long as no engine can take it.
- Nothing that may wait for an engine goes to the master before what only the master may have and it has room for.
- A message that cannot be read when its turn comes is held back likewise. An engine that does not answer is given up.
- Whatever is offered comes out of :meth:`Dispatch.take_settled` once, or of :meth:`Dispatch.withdraw_all`.

No sockets, threads or clocks: ``now`` is monotonic seconds. The connector calls under its lock; a lane's ``outbox``
holds what is to be written next on its connection.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from harmonicio.core.errors import RemoteProtocolError
from harmonicio.core.message import Failure, Outcome, OutcomeKind, RejectReason
from harmonicio.stream_connector.backlog_pause import MASTER_PAUSE_S, BacklogPause
from harmonicio.stream_connector.delivery import DeliveryState
from harmonicio.stream_connector.held_back import HeldBack
from harmonicio.stream_connector.lanes import LOOP_GAP_S, Lane, Parcel, Settled, best_engine
from harmonicio.stream_connector.patience import MIN_PATIENCE_S, Patience
from harmonicio.stream_connector.waiting_line import PartedLine
from harmonicio.wire.frames import Flag

#: Something waits for a moment all the time; another engine is asked for when it lasts longer …
SEEK_AFTER_S = 0.01
#: … or sooner, when as many are under way to each on average …
FEW_MESSAGES = 4
#: … but later while there is one with nothing to do: it will give credit soon.
SEEK_BEYOND_IDLE_S = MIN_PATIENCE_S
#: What was rejected so often goes to the master only.
MAX_REJECTIONS = 3
HANDLER_TIMEOUT_S = 600.0  # the default of a stream

_WAITING, _SUSPECT, _DEAD = DeliveryState.WAITING, int(Flag.SUSPECT), int(Flag.DEAD)


class Dispatch:
    """The messages of one connector that are not safe yet.

    Args:
        budget_bytes: What may be unsafe at the same time; when half of it waits, patience is 50 ms at most.
        patience_s: How long a message waits for an engine; None measures: the larger of 50 ms and twice the interval
            between credits.
        jitter: Draws from 0 to 1, so that pauses differ.

    Attributes:
        engines_from: More engines may come from this time on: then the master is asked again.
        backlog: The connection to the master's data port, while there is one.
        waiting_bytes: What is not under way costs so much; 0 when nothing waits, which is told fastest by this.
    """

    def __init__(
        self, budget_bytes: int, patience_s: float | None = None, jitter: Callable[[], float] = random.random
    ) -> None:
        self.budget_bytes = budget_bytes
        self.handler_timeout_s, self.window_s = HANDLER_TIMEOUT_S, 0.0
        self.engines_from = self._offered_at = 0.0
        self._patience = Patience(patience_s)
        self._waiting, self._for_master = PartedLine(), PartedLine()
        self._held_back = HeldBack(jitter)
        self.pause = BacklogPause()
        self._engines: list[Lane] = []
        self._latest: Lane | None = None
        self.backlog: Lane | None = None
        self._settled: list[Settled] = []
        self.used_bytes = self.waiting_bytes = self.resent = 0

    def __repr__(self) -> str:
        return f"<Dispatch: {self.waiting} waiting, {self.used_bytes} bytes unsafe, {len(self._engines)} engines>"

    # ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def waiting(self) -> int:
        """Messages that are not under way."""
        return len(self._waiting) + len(self._for_master) + len(self._held_back)

    @property
    def engines(self) -> tuple[Lane, ...]:
        return tuple(self._engines)

    @property
    def _in_flight(self) -> int:
        """Messages under way to engines."""
        return sum(len(lane.in_flight) for lane in self._engines)

    def _has_waited(self, wait_s: float, now: float) -> bool:
        """Whether the oldest message that may go to an engine has waited for so long."""
        return self.waiting_bytes > 0 and bool(self._waiting) and now >= self._waiting.oldest.offered_at + wait_s

    @property
    def _is_crowded(self) -> bool:
        """Whether half of the byte budget waits."""
        return self.waiting_bytes * 2 >= self.budget_bytes

    def has_room(self, cost_bytes: int) -> bool:
        """Whether the byte budget admits one more message; a single one is always admitted."""
        return self.used_bytes == 0 or self.used_bytes + cost_bytes <= self.budget_bytes

    def wants_engines(self, now: float) -> bool:
        """Whether each engine has more than a few messages to do, or something waits, and not for a moment only."""
        if not self._engines:
            return bool(self._waiting)
        if any(lane.is_idle and not lane.is_draining for lane in self._engines):
            return self._has_waited(SEEK_BEYOND_IDLE_S, now)
        return self._in_flight > FEW_MESSAGES * len(self._engines) or self._has_waited(SEEK_AFTER_S, now)

    def engines_lacking(self, now: float) -> int:
        """Return how many engines more could be used: under light load, others and their hosts stay free."""
        waiting = len(self._waiting) if self._has_waited(SEEK_AFTER_S, now) else 0
        return max(1, waiting, self._in_flight // FEW_MESSAGES - len(self._engines))

    def wants_backlog(self, now: float, *, has_questions: bool = False) -> bool:
        """Whether a connection to the master's data port is needed, for messages or for questions."""
        is_for_messages = self.waiting_bytes > 0 and (bool(self._for_master) or self._is_impatient(now))
        return self.backlog is None and (has_questions or is_for_messages)

    def overdue(self, now: float) -> list[Lane]:
        """Return the connections that are given up, because nothing was answered there for too long."""
        return [
            lane for lane in (*self._engines, self.backlog) if lane and lane.is_overdue(self.handler_timeout_s, now)
        ]

    def unreadable_s(self, unsafe: int, now: float) -> float:
        """Return for how long none of so many messages could be read, or one that all others wait for."""
        return self._held_back.unreadable_s(None if self.pause.keeps_order else unsafe, now)

    def next_due_s(self, now: float) -> float | None:
        """Seconds until the time alone changes what :meth:`assign` or a question answers; None when it does not."""
        if not self.waiting_bytes:
            return None
        due_at: list[float] = []
        if self._waiting:
            offered_at = self._waiting.oldest.offered_at
            due_at = [offered_at + SEEK_AFTER_S, offered_at + SEEK_BEYOND_IDLE_S]
            due_at += self._patience.due_at(offered_at, self._is_crowded)
        if self._waiting or self._for_master:
            due_at.append(self.pause.ends_at)
        if self._held_back:
            due_at.append(self._held_back.next_at)
        return min((at - now for at in due_at if at > now), default=None)

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def offer(self, parcel: Parcel, now: float) -> Lane | None:
        """Take a message in; return the engine that it is given to at once, None where it waits for :meth:`assign`."""
        before = self._offered_at
        if now - before < LOOP_GAP_S:
            parcel.is_in_loop = True
        if now <= before:  # No two have the same time: each finds its place again when it comes back.
            now = math.nextafter(before, math.inf)
        self._offered_at = parcel.offered_at = now
        self.used_bytes += parcel.cost_bytes
        if not self.waiting_bytes or not self._waiting:
            able = self._engine_at_once(parcel, now)
            if able is not None and parcel.size_bytes <= able.max_message_bytes:
                able.take(parcel, now)
                return able
        self.waiting_bytes += parcel.cost_bytes
        self._waiting.join(parcel)
        return None

    def _engine_at_once(self, parcel: Parcel, now: float) -> Lane | None:
        """Return the engine for a message that nothing waits before: the same again, if it is quick."""
        latest = self._latest
        if latest is not None and latest.goes_on(parcel, now, self.window_s):
            return latest
        lane = best_engine(self._engines, parcel, now, may_have_others=now >= self.engines_from)
        self._latest = latest if latest is not None and latest.is_awake(now, self.window_s) else lane
        return lane

    def lane_opened(self, lane: Lane, now: float) -> None:
        lane.active_at = now
        if lane.is_backlog:
            self.backlog = lane
        else:
            self._engines.append(lane)

    def credit_received(self, lane: Lane, messages: int, size_bytes: int, now: float) -> None:
        """Take totals of credit."""
        lane.credit.granted(messages, size_bytes)
        if not lane.is_backlog:
            self._patience.credited(now, is_busy=bool(self._in_flight))

    def outcomes_received(self, lane: Lane, first: int, last: int, outcome: Outcome, now: float) -> None:
        """Take the answers to the messages ``first`` to ``last``.

        Raises:
            RemoteProtocolError: they answer what is not in flight on this lane.
        """
        lane.credit.outcomes_received(first, last)
        if not lane.is_backlog:
            self._patience.answered(last - first + 1, now)
        in_flight, is_done = lane.in_flight, outcome.kind is OutcomeKind.DONE
        parcels = [each for number in range(first, last + 1) if (each := in_flight.pop(number, None)) is not None]
        if parcels:
            lane.answered(parcels, now, are_done=is_done)
        settled = parcels if is_done else [each for each in parcels if self._is_final(lane, each, outcome, now)]
        self._settle(settled, outcome, lane.is_backlog)
        if len(parcels) <= last - first:  # What was answered beside it counts.
            raise RemoteProtocolError(f"Of the messages {first} to {last} some were answered before.")
        if not in_flight and not self._waiting:
            lane.rested()
        if not in_flight and not lane.is_backlog and not self._in_flight:
            self._patience.rested()

    def lane_closed(self, lane: Lane, now: float) -> None:
        """The connection ended: what was in flight is sent again."""
        if self.backlog is lane:
            self.backlog = None
            self.pause.begin(now + MIN_PATIENCE_S)
        elif lane in self._engines:
            self._engines.remove(lane)
            self._latest = None
            if not self._engines:
                self._patience.forget()
        in_flight, lane.in_flight = lane.in_flight, {}
        lane.outbox.clear()
        for sequence, parcel in in_flight.items():
            if sequence < lane.begun:
                self.resent += 1
                parcel.is_for_master = True
                if not lane.is_backlog:
                    parcel.flags |= _SUSPECT
            self._put_back(lane, parcel, now)

    def unreadable(self, lane: Lane, now: float) -> None:
        """The next message that this lane would write cannot be read: it does not hold up what is behind it.

        What was not begun is given out anew; the receiver has not heard of it.
        """
        for sequence in [each for each in lane.in_flight if each >= lane.begun]:
            parcel = lane.in_flight.pop(sequence)
            lane.credit.message_taken_back(parcel.size_bytes)
            self._put_back(lane, parcel, now)
        lane.outbox.clear()

    def _put_back(self, lane: Lane, parcel: Parcel, now: float) -> None:
        """It was not answered here: send it again; later, if it cannot be read now; never, if it cannot be at all."""
        if parcel.trouble:
            self._settle([parcel], Outcome.rejected(RejectReason.STORAGE, parcel.trouble), lane.is_backlog)
        elif not parcel.is_away:
            self._return(parcel)
        else:
            until = self._held_back.unread(parcel, now)
            if self.pause.keeps_order:
                self.pause.begin(until)
            self._return(parcel, None if self.pause.keeps_order else until)

    def hurry(self) -> None:
        """The connector closes: what waits has less patience from now on."""
        self._patience.hurry()

    def withdraw_all(self) -> list[Parcel]:
        """Give up everything that is not safe; the connector closes."""
        parcels = [*self._waiting, *self._for_master, *self._held_back]
        for lane in (*self._engines, *([self.backlog] if self.backlog else [])):
            parcels += lane.in_flight.values()
            lane.in_flight.clear()
            lane.outbox.clear()
        for line in (self._waiting, self._for_master, self._held_back):
            line.clear()
        self.used_bytes = self.waiting_bytes = 0
        return parcels

    # ── instructions ─────────────────────────────────────────────────────────────────────────────────────────────────

    def take_settled(self) -> list[Settled]:
        """Return what has become of messages since the last call."""
        settled, self._settled = self._settled, []
        return settled

    def assign(self, now: float) -> list[Lane]:
        """Give what waits to whoever has credit; return the lanes whose outbox has grown."""
        touched: list[Lane] = []
        for parcel in self._held_back.take(now):
            self._line_up(parcel)
        if now >= self.pause.ends_at:
            self._for_master.recall()
            self._waiting.recall()
        while (only := self._next_for_master(self._for_master, now)) and (lane := self._able_master(only)):
            self._send(lane, self._for_master.leave(only), now, touched)
        while self._waiting:
            parcel = self._waiting.first
            able = best_engine(self._engines, parcel, now, may_have_others=now >= self.engines_from)
            if able is None and not self._for_master.at_hand and (late := self._next_for_master(self._waiting, now)):
                parcel, able = late, self._able_master(late) if self._is_impatient(now) else None
            if able is None:
                break
            self._send(able, self._waiting.leave(parcel), now, touched)
        return touched

    def _next_for_master(self, line: PartedLine, now: float) -> Parcel | None:
        """Return the next one that the master may have room for; the others step aside."""
        while line.at_hand and not self.pause.admits_nothing(now):
            parcel = line.at_hand.first if line is self._for_master else line.at_hand.oldest
            if self.pause.admits(parcel.size_bytes, now):
                return parcel
            if not line.step_aside(parcel):
                break
        return None

    def _able_master(self, parcel: Parcel) -> Lane | None:
        return self.backlog if self.backlog is not None and self.backlog.can_take(parcel) else None

    def _is_impatient(self, now: float) -> bool:
        """Whether the oldest message that the master may have room for should not wait any more."""
        if not self._waiting.at_hand:
            return False
        offered_at = self._waiting.at_hand.oldest.offered_at
        return self._patience.is_over(offered_at, len(self._waiting), now, is_crowded=self._is_crowded)

    def _send(self, lane: Lane, parcel: Parcel, now: float, touched: list[Lane]) -> None:
        self.waiting_bytes -= parcel.cost_bytes
        if parcel.size_bytes > lane.max_message_bytes:
            text = f"It has {parcel.size_bytes} bytes; the stream takes at most {lane.max_message_bytes}."
            self._settle([parcel], Outcome.rejected(RejectReason.TOO_LARGE, text), lane.is_backlog)
            return
        lane.take(parcel, now)
        if lane not in touched:
            touched.append(lane)

    # ── what an outcome means ────────────────────────────────────────────────────────────────────────────────────────

    def _is_final(self, lane: Lane, parcel: Parcel, outcome: Outcome, now: float) -> bool:
        """Return whether the message has come to rest; else have it sent again."""
        if outcome.kind is OutcomeKind.FAILED:
            self._failed(parcel, outcome.failure)
            return False
        if outcome.kind is not OutcomeKind.REJECTED or (outcome.reason is not None and outcome.reason.is_final):
            return True
        self.resent += 1
        not_before: float | None = None
        if outcome.reason is RejectReason.DRAINING:
            lane.is_draining = True
        elif lane.is_backlog and outcome.reason is not RejectReason.CHECKSUM:
            if outcome.reason is RejectReason.BACKLOG_FULL:
                self.pause.is_full(parcel.size_bytes, now)
            else:
                self.pause.begin(now + MASTER_PAUSE_S)
        else:
            parcel.rejections += 1
            if not lane.is_backlog:
                parcel.refused_by = (*parcel.refused_by, lane)
            parcel.is_for_master |= parcel.rejections >= MAX_REJECTIONS
            # Somebody else is asked at the second try; what is refused again has time.
            not_before = now + self._held_back.pause_s(parcel.rejections - 1) if parcel.rejections > 1 else now
        self._return(parcel, not_before)
        return False

    def _failed(self, parcel: Parcel, failure: Failure | None) -> None:
        parcel.attempts += 1
        parcel.failure = failure if failure is not None else Failure("Unknown", "The engine did not say why.")
        parcel.is_for_master = True
        if not parcel.failure.retryable:
            parcel.flags |= _DEAD
        self._return(parcel)

    def _return(self, parcel: Parcel, not_before: float | None = None) -> None:
        self.waiting_bytes += parcel.cost_bytes
        parcel.delivery.state = _WAITING
        if not_before is None:
            self._line_up(parcel)
        else:
            self._held_back.put(parcel, not_before)

    def _line_up(self, parcel: Parcel) -> None:
        (self._for_master if parcel.is_for_master else self._waiting).rejoin(parcel)

    def _settle(self, parcels: Sequence[Parcel], outcome: Outcome, is_backlog: bool) -> None:
        for parcel in parcels:
            self.used_bytes -= parcel.cost_bytes
            if parcel.away_since:
                self._held_back.settled(parcel)
        if parcels:
            self._settled.append(Settled(parcels, outcome, is_backlog))
