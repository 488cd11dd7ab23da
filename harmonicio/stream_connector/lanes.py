"""Messages on their way, and the connections that they take; records of :mod:`harmonicio.stream_connector.dispatch`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harmonicio.core.errors import RemoteProtocolError
from harmonicio.core.message import MAX_MESSAGE_BYTES, Failure, Outcome, OutcomeKind
from harmonicio.core.stream import keeping_timeout_s
from harmonicio.stream_connector.delivery import Delivery, DeliveryState
from harmonicio.wire.credit import SenderCredit

#: What a message costs of the byte budget at least: its own bookkeeping.
MIN_COST_BYTES = 512
#: … and where its payload is only on disk, with its place there.
STORED_COST_BYTES = 1024
#: Of a message of this size it is noted when its last byte has left, because that takes a while.
LARGE_BYTES = 1024**2
#: An engine that was idle gets so many messages at first …
FIRST_MESSAGES = 64
#: … and then twice as many more as it has answered within so long.
PACE_S = 0.05
#: Who answers so many within that is quick: which engine has one message more does not matter.
QUICK_PACE = 256
#: Payloads up to this size are copied beside their prefixes: the kernel takes one buffer faster than many.
JOINED_BYTES = 16 * 1024
#: An engine that has done a message within this time of its offer, and no longer ago, is awake …
AWAKE_S = 0.002
#: … and gets the next message, too, although others have less to do, while it has fewer than the square of how often it
#: does so many a second, as its credit says: 1 where a handler takes 100 us, 4 at 50 us, 100 at 10 us. To wake another
#: costs more than to wait for those.
AHEAD_PER_S = 10_000
#: Of what may leave together with what follows, no more than so many messages wait for that.
LOOP_MESSAGES = 128
#: … of those that are not copied beside their prefixes, and do not travel through shared memory, so many bytes …
TOGETHER_BYTES = 640 * 1024
#: … and what is copied into shared memory no more than up to this size.
COPIED_BYTES = 256 * 1024
#: An engine that answers within this time rests again and again …
PROMPT_S = 0.001
#: … and is better woken for so many than for each.
PROMPT_MESSAGES = 3
#: A source that sends again within this time is in a loop: what is small leaves together with what follows.
LOOP_GAP_S = 0.0001
#: What is granted beyond what a message may take at an engine, before the engine is given up.
GRACE_S = 30.0
#: A master that has messages of ours and says nothing for so long is given up.
MASTER_SILENT_S = 60.0
#: … and later when it has much to write: a disk that is slower than this is none.
MASTER_WRITES_BYTES_PER_S = 10_000_000

_IN_FLIGHT = DeliveryState.IN_FLIGHT


class Parcel:
    """A message with what must be known to send it, until it is safe.

    Attributes:
        payload: What the connection writes; no business of the dispatch.
        section: Header section: metadata, and the id where it is a text.
        is_small: Whether its payload is copied beside its prefix.
        is_large: Whether to write it takes a while.
        failure: Why an engine did not finish it.
        raw_id: Its id, where that was drawn here.
        is_for_master: Whether only the master may have it now.
        sent_at: When it was given to a connection; of a large message, when it had left, and infinity before.
        rejections: How often a receiver did not take it, and others, or the same later, may.
        refused_by: The engines that did not; others are asked first.
        trouble: Why it cannot be sent at all, once that is known.
        is_away: Whether its payload could not be read just now.
        absences, away_since: How often that was so since all of it was read, and when for the first time.
        is_in_loop: Whether its source sent it right behind another one, or had to wait: then more will follow.
        is_readable: Whether the last try to read it went well, or goes well so far.
        slot: Its place in shared memory, where its source made it there, else None; no business of the dispatch.
        entry: Its place in the spool, where there is one; no business of the dispatch.
    """

    def __init__(self, delivery: Delivery, payload: Any, section: bytes = b"", priority: int = 0) -> None:
        self.delivery = delivery
        self.payload = payload
        self.section = section
        self.priority = priority
        self.size_bytes = delivery.size_bytes
        self.is_small = self.size_bytes <= JOINED_BYTES
        self.is_large = not self.is_small and self.size_bytes >= LARGE_BYTES
        self.cost_bytes = self.size_bytes + len(section)
        if self.cost_bytes < MIN_COST_BYTES:
            self.cost_bytes = MIN_COST_BYTES
        self.flags = self.attempts = self.rejections = self.absences = 0
        self.refused_by: tuple[Lane, ...] = ()
        self.failure: Failure | None = None
        self.is_for_master = self.is_away = self.is_readable = self.is_in_loop = False
        self.raw_id: bytes | None = None
        self.offered_at = self.sent_at = self.away_since = 0.0
        self.trouble = ""
        self.entry: Any = None
        self.slot: Any = None

    def __repr__(self) -> str:
        return f"<Parcel {self.delivery.message_id!r}, {self.size_bytes} bytes, {self.delivery.state}>"

    def leave_memory(self, payload: Any) -> None:
        """Send this instead, which is on disk: the memory of the payload is let go of."""
        self.payload, self.slot = payload, None
        self.cost_bytes = STORED_COST_BYTES + len(self.section)
        self.delivery.released = True

    def let_go(self) -> None:
        """It has come to rest: its payload is the source's own again, or free."""
        self.delivery.released = True
        if self.slot is not None:
            self.payload, self.slot = b"", None


@dataclass(slots=True)
class Settled:
    """What has become of parcels that were answered together: they are safe, or rejected for good."""

    parcels: Sequence[Parcel]
    outcome: Outcome
    is_backlog: bool


class Lane:
    """One connection to send on: an engine's, or the master's for the backlog.

    Attributes:
        begun: How many messages its connection has begun to write; those were perhaps seen on the other side.
        active_at: When it last took or answered a message.
        answered_at: When it last answered one.
        is_quick: Whether it has answered so many messages in a moment that single ones do not count.
        is_prompt: Whether what it answered last had been sent just before.
        has_arena: Whether payloads reach it through shared memory.
    """

    def __init__(self, name: str, *, is_backlog: bool, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.name = name
        self.is_backlog = is_backlog
        self.max_message_bytes = max_message_bytes
        self.credit = SenderCredit()
        self.in_flight: dict[int, Parcel] = {}
        self.outbox: deque[Parcel] = deque()
        self.begun = 0
        self.is_draining = self.is_prompt = self.is_quick = self.has_arena = False
        self.active_at = self.answered_at = 0.0
        self._is_soon_done = False
        self._last_large = -1
        self._pace = self._pace_before = 0
        self._pace_at = 0.0

    def __repr__(self) -> str:
        return f"<Lane {self.name}{', draining' if self.is_draining else ''}: {self.credit!r}>"

    @property
    def is_idle(self) -> bool:
        return not self.in_flight

    def was_idle_since(self, time_s: float) -> bool:
        """Whether it is idle and nothing was sent or answered on it after that time."""
        return self.is_idle and self.active_at <= time_s

    @property
    def works_since(self) -> float:
        """Since when the receiver has had something to answer, without an answer."""
        oldest = next(iter(self.in_flight.values()), None)
        return math.inf if oldest is None else max(oldest.sent_at, self.answered_at)

    def is_overdue(self, handler_timeout_s: float, now: float) -> bool:
        """Whether nothing was answered in the time that a message may take and be kept, or the master be silent.

        It starts when the oldest message has left, or at a later answer: what is held in advance waits for the others.
        """
        if not self.is_backlog:
            limit_s = handler_timeout_s + keeping_timeout_s(handler_timeout_s) + GRACE_S
        else:
            unanswered_bytes = sum(parcel.size_bytes for parcel in self.in_flight.values())
            limit_s = MASTER_SILENT_S + unanswered_bytes / MASTER_WRITES_BYTES_PER_S
        return now > self.works_since + limit_s

    def take(self, parcel: Parcel, now: float) -> None:
        """Line a parcel up to be written."""
        number = self.credit.message_sent(parcel.size_bytes)
        self.in_flight[number] = parcel
        self.outbox.append(parcel)
        self.active_at = now
        if not parcel.is_large:
            parcel.sent_at = now
        else:
            parcel.sent_at, self._last_large = math.inf, number
        parcel.delivery.state = _IN_FLIGHT

    def can_take(self, parcel: Parcel) -> bool:
        """Whether the receiver has credit for it."""
        return not self.is_draining and self.credit.can_send(parcel.size_bytes)

    def _is_named_only(self, parcel: Parcel) -> bool:
        """Whether a large payload is small on the wire: it is in shared memory, or quickly copied there."""
        return self.has_arena and (parcel.slot is not None or parcel.size_bytes <= COPIED_BYTES)

    def can_wait(self, parcel: Parcel) -> bool:
        """Whether it may leave together with what follows: it is not large, the receiver busy as long, or prompt."""
        if not parcel.is_in_loop:
            return False
        waiting = len(self.outbox)
        is_written = not (parcel.is_small or self._is_named_only(parcel))
        if is_written and waiting * parcel.size_bytes > TOGETHER_BYTES:
            return False
        if waiting < PROMPT_MESSAGES and self.is_prompt:
            return True
        return 2 * waiting <= len(self.in_flight) and waiting < LOOP_MESSAGES

    def answered(self, parcels: Sequence[Parcel], now: float, *, are_done: bool) -> None:
        """These have been answered, in the order in which they were sent: as many more are soon done with."""
        first, count = parcels[0], len(parcels)
        self.active_at = self.answered_at = now
        self.is_prompt = now - first.sent_at < PROMPT_S
        self._is_soon_done = are_done and now - first.offered_at < AWAKE_S
        if now - self._pace_at >= PACE_S:
            self._pace_before = self._pace if now - self._pace_at < 2 * PACE_S else 0
            self._pace, self._pace_at = 0, now
        self._pace += count
        self.is_quick = max(self._pace, self._pace_before) >= QUICK_PACE

    def check_answers(self, last: int, outcome: Outcome) -> None:
        """Look at the answer to the messages up to ``last``, before it is believed.

        Raises:
            RemoteProtocolError: not all of them have left; or it is an engine, and speaks for the master.
        """
        if last >= self.begun:
            text = f"{self.name} answers message {last} of its connection, but only {self.begun} have left."
            raise RemoteProtocolError(text)
        if outcome.kind is OutcomeKind.STORED and not self.is_backlog:
            raise RemoteProtocolError(f"{self.name} says that a message is stored, as only the master may.")

    def rested(self) -> None:
        """The receiver has nothing to do: what comes next may take longer than what was."""
        self._pace = self._pace_before = 0
        self.is_quick = False

    def goes_on(self, parcel: Parcel, now: float, window_s: float) -> bool:
        """Whether the engine that had the last message is quick enough to have this one, too.

        Args:
            window_s: Seconds of one handler's time that all of its credit stands for; 0 where that is not known.
        """
        is_together = self.is_quick and self.outbox and self.can_wait(parcel)
        is_next = is_together or self._is_soon_free(parcel, now, window_s)
        return is_next and self.can_take(parcel) and not self.is_full(now)

    def _is_soon_free(self, parcel: Parcel, now: float, window_s: float) -> bool:
        """Whether it is awake, and will have done what it has in less time than another takes to wake up."""
        if not self.is_awake(now, window_s):
            return False
        if len(self.in_flight) >= (self.credit.window / window_s // AHEAD_PER_S) ** 2:
            return False
        return not parcel.is_large or self._has_written_large()

    def _has_written_large(self) -> bool:
        """Whether no large message that is under way has still to leave."""
        last = self.in_flight.get(self._last_large)
        return last is None or last.sent_at < math.inf

    def is_awake(self, now: float, window_s: float) -> bool:
        """Whether the engine has just done a message, soon after its offer, and its credit says how quick it is.

        The credit is at least one message, so it says nothing where it stands for next to no time.
        """
        return self._is_soon_done and now - self.answered_at < AWAKE_S <= window_s

    def is_full(self, now: float) -> bool:
        """Whether as many messages are under way as will be answered soon, as far as one can know."""
        in_flight = len(self.in_flight)
        if in_flight < FIRST_MESSAGES:
            return False
        pace = max(self._pace, self._pace_before) if now - self._pace_at < 2 * PACE_S else 0
        return in_flight >= FIRST_MESSAGES + 2 * pace


def best_engine(engines: Sequence[Lane], parcel: Parcel, now: float, *, may_have_others: bool) -> Lane | None:
    """Return the one with the least to do that can take the parcel; those that did not take it before come last.

    Args:
        may_have_others: Whether more engines may come, so that one need not have all that it takes.
    """
    has_others = len(engines) > 1 or may_have_others
    best = second = None
    for lane in engines:
        if not lane.can_take(parcel) or (has_others and lane.is_full(now)):
            continue
        if lane in parcel.refused_by:
            second = lane if second is None or len(lane.in_flight) < len(second.in_flight) else second
        elif best is None or len(lane.in_flight) < len(best.in_flight):
            best = lane
    return second if best is None else best
