"""What a connector has under way: joins dispatch, results and connections under one lock.

      send ──► offer ──► Dispatch decides, under the lock ──► Peer writes, outside it
                             ▲                                  │ what the kernel did not take
                             │ credit, outcomes                 ▼
                             └───────────────────────────── Pump (sockets) ◄── new connections ── Leasing

Rules: decide under the lock, act outside it; whoever waits waits in the pump, which serves the sockets meanwhile; the
control thread is told only when something is newly wanted.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable

from harmonicio.control.messages import LeaseGrant
from harmonicio.core.errors import (
    ConnectionEnded,
    HarmonicIOError,
    InvalidInput,
    OutcomeTimeout,
    RemoteProtocolError,
    UndeliveredError,
)
from harmonicio.stream_connector.delivery import Delivery, DeliveryState, at_rest
from harmonicio.stream_connector.dispatch import FEW_MESSAGES, Dispatch
from harmonicio.stream_connector.figures import Figures
from harmonicio.stream_connector.lanes import Lane, Parcel
from harmonicio.stream_connector.peers import Peer
from harmonicio.stream_connector.pump import Pump
from harmonicio.stream_connector.room_line import RoomLine
from harmonicio.stream_connector.settlement import Settlement
from harmonicio.wire.events import Credit, Drain, Event, OutcomesReceived, ResultsReceived
from harmonicio.wire.sections import subscribe_frame

_log = logging.getLogger(__name__)

DUE_TOLERANCE_S = 0.001


class Exchange:
    """The messages and connections of one connector."""

    def __init__(self, dispatch: Dispatch, name: str, settlement: Settlement) -> None:
        self.lock = threading.Lock()
        self.pump = Pump(self, self.lock, name)
        self.on_wanted: Callable[[], None] = lambda: None
        self.is_closed = False
        self.tally = settlement.tally
        self._dispatch = dispatch
        self._settlement = settlement
        self._results = settlement.results
        self._peers: dict[Lane, Peer] = {}
        self._refusal: HarmonicIOError | None = None
        self._room_line = RoomLine(self.pump, lambda: self._is_over)
        self._spool_line = RoomLine(self.pump, lambda: self._is_over)
        self._due_at = math.inf
        self._was_wanted = (False, False)

    def __repr__(self) -> str:
        return f"<Exchange: {self.tally!r}, {self._dispatch!r}, {self._results!r}>"

    def figures(self, lease_requests: int) -> Figures:
        """Return what has been done so far."""
        with self.lock:
            return self._settlement.figures(self._dispatch, lease_requests)

    # ── what a source asks; on its threads ───────────────────────────────────────────────────────────────────────────

    @property
    def has_connections(self) -> bool:
        return bool(self._peers)

    @property
    def unreadable_s(self) -> float:
        """Seconds for which nothing that is left could be read; the lock need not be held."""
        return self._dispatch.unreadable_s(self.tally.unsafe, time.monotonic())

    def restore(self, parcels: Iterable[Parcel]) -> None:
        """Take in what the spool has from before; nothing else has been offered yet."""
        with self.lock:
            for parcel in parcels:
                self.tally.sent += 1
                self._dispatch.offer(parcel, time.monotonic())

    def wait_for_room(self, has_room: Callable[[], bool]) -> None:
        """Wait until the spool has room, in a line of its own: who waits for memory may be what fills the spool."""
        with self.lock:
            self._check_usable()
            if self._spool_line.waiting or not has_room():
                self._spool_line.wait(has_room)
                self._check_usable()

    def has_memory(self, parcel: Parcel) -> bool:
        """Whether its payload may stay in memory beside the spool: half of the budget is for what lies only there."""
        return (self._dispatch.used_bytes + parcel.cost_bytes) * 2 <= self._dispatch.budget_bytes

    def offer(self, parcel: Parcel) -> None:
        """Take a message in, and send it if somebody has credit for it; waits for room in the byte budget."""
        self.lock.acquire()  # By hand: a with statement takes twice the time, and this is done for each message.
        try:
            if self._room_line.waiting or not self._dispatch.has_room(parcel.cost_bytes):
                self._room_line.wait_for_budget(self._dispatch, parcel)
            self._check_usable()
            now = time.monotonic()
            self.tally.sent += 1
            lane = self._dispatch.offer(parcel, now)
            if lane is None:
                touched, can_wait = self._advance(now), False
            else:
                touched, can_wait = [self._peers[lane]], lane.can_wait(parcel)
                is_asked = now >= self._dispatch.engines_from and not self._was_wanted[0]
                if is_asked and len(lane.in_flight) > FEW_MESSAGES:
                    self._tell_wanted(now)
            is_due_earlier = not touched and self._is_due_earlier(now)
        finally:
            self.lock.release()
        if can_wait:
            self.pump.flush_soon(touched[0])
        else:
            self._flush(touched, insists=len(touched) == 1)
            self.pump.sent(now)
            if is_due_earlier:
                self.pump.wake()

    def await_outcome(self, delivery: Delivery, timeout_s: float | None) -> None:
        """Wait for the final outcome of a message."""
        with self.lock:
            if delivery.state is DeliveryState.STORED:
                self._results.want(delivery)
            for peer in self._ask() if self._results.has_questions else ():
                self.pump.flush_soon(peer)  # On the turn that is taken next.
            self.pump.wait(lambda: delivery.is_final or self._is_over, timeout_s)
            if delivery.is_final:
                return
            if self._refusal is not None and not self.is_closed:
                raise self._refusal
        text = f"No outcome of message {delivery.message_id!r} has arrived; it is {delivery.state}."
        if not self.is_closed:
            raise OutcomeTimeout(text)
        if not delivery.is_safe:
            hint = self._settlement.where_unsafe
            raise UndeliveredError(f"{text} The connector was closed.", message_ids=[delivery.message_id], hint=hint)
        raise OutcomeTimeout(text, hint="Wait for results before the connector is closed.")

    def wait_until_safe(self, timeout_s: float | None, deliveries: Iterable[Delivery] | None = None) -> bool:
        """Wait until every message, or each of these, is safe or rejected; return whether that was in time."""
        is_done = (lambda: not self.tally.unsafe) if deliveries is None else at_rest(deliveries)
        with self.lock:
            return self._wait(is_done, timeout_s)

    def wait_until_processed(self, timeout_s: float | None) -> bool:
        """Wait until the final outcome of every message is known; return whether that was in time."""
        with self.lock:
            self._results.want_all()
            asking = self._ask()
        self._flush(asking)
        with self.lock:
            return self._wait(lambda: not self.tally.unsafe and not len(self._results), timeout_s)

    def take_unheard(self, *states: DeliveryState) -> list[Delivery]:
        """Return the messages that came to such an end and that nobody has awaited, once."""
        with self.lock:
            return self._settlement.failures.take(*states)

    def take_forgotten(self) -> int:
        """Return how many stored messages were too many to be remembered, once."""
        with self.lock:
            forgotten, self._results.forgotten = self._results.forgotten, 0
        return forgotten

    def progress(self) -> tuple[int, int]:
        """Return how many messages are not safe, and how many more are not known to be processed."""
        with self.lock:
            return self.tally.unsafe, len(self._results)

    def hurry(self) -> None:
        """The connector closes: what waits for an engine has less patience."""
        with self.lock:
            self._dispatch.hurry()
        self.pump.wake()

    def end(self) -> list[Parcel] | None:
        """Take nothing more; return what is not safe, None where another thread has ended it."""
        with self.lock:
            was_closed, self.is_closed = self.is_closed, True
            self.pump.tell_waiters()
            return None if was_closed else self._dispatch.withdraw_all()

    def _wait(self, is_done: Callable[[], bool], timeout_s: float | None) -> bool:
        self.pump.wait(lambda: is_done() or self._is_over, timeout_s)
        if not is_done() and self._refusal is not None and not self.is_closed:
            raise self._refusal
        return is_done()

    @property
    def _is_over(self) -> bool:
        return self.is_closed or self._refusal is not None

    def _check_usable(self) -> None:
        if self.is_closed:
            raise InvalidInput("The connector is closed.", hint="Open a new one.")
        if self._refusal is not None:
            raise self._refusal

    # ── what the pump tells; on the thread that has the turn ─────────────────────────────────────────────────────────

    def peer_events(self, peer: Peer, events: list[Event]) -> None:
        now = time.monotonic()
        touched: list[Peer] = []
        try:
            with self.lock:
                if self.is_closed:
                    return
                try:
                    for event in events:
                        self._take(peer.lane, event, now)
                except Exception:
                    peer.lane.is_draining = True  # It is about to be ended.
                    raise
                finally:
                    touched = self._advance(now)
        finally:  # Others have been given something to send, too.
            self._flush(touched)

    def peer_ended(self, peer: Peer, error: HarmonicIOError) -> None:
        now = time.monotonic()
        with self.lock:
            self._peers.pop(peer.lane, None)
            if self.is_closed:
                return
            self._dispatch.lane_closed(peer.lane, now)
            if peer.lane.is_backlog:
                self._results.connection_lost()
            touched = self._advance(now)
        _log.info("The connection to %s ended: %s", peer.lane.name, error)
        self._flush(touched)
        self.on_wanted()

    def peer_stuck(self, peer: Peer) -> None:
        now = time.monotonic()
        with self.lock:
            if self.is_closed:
                return
            self._dispatch.unreadable(peer.lane, now)
            peer.is_stuck = False
            touched = self._advance(now)
        for each in dict.fromkeys([peer, *touched]):
            self.pump.flush_soon(each)  # Not at once: what comes next may be just as unreadable, and so on.
        self.tidy()

    def next_due_s(self) -> float | None:
        due_s = self._dispatch.next_due_s(now := time.monotonic())
        self._due_at = math.inf if due_s is None else now + due_s
        return due_s

    def _is_due_earlier(self, now: float) -> bool:
        """Whether the pump, if it waits, should look at the time before it planned to."""
        return (due_s := self._dispatch.next_due_s(now)) is not None and now + due_s < self._due_at - DUE_TOLERANCE_S

    def time_passed(self) -> None:
        now = time.monotonic()
        with self.lock:
            if self.is_closed:
                return
            overdue = [self._peers[lane] for lane in self._dispatch.overdue(now)]
            touched = self._advance(now)
        for peer in overdue:
            error = ConnectionEnded(f"{peer.lane.name} did not answer a message in time.")
            _log.warning("%s Its messages are sent again.", error)
            self.pump.end(peer, error)
        self._flush(touched)

    def _take(self, lane: Lane, event: Event, now: float) -> None:
        if isinstance(event, OutcomesReceived):
            for each in event.ranges:
                lane.check_answers(each.last, each.outcome)
                self._dispatch.outcomes_received(lane, each.first, each.last, each.outcome, now)
        elif isinstance(event, Credit):
            self._dispatch.credit_received(lane, event.messages, event.bytes, now)
        elif isinstance(event, ResultsReceived) and lane.is_backlog:
            for result in event.results:
                for delivery in self._results.final(result.message_id):
                    self._settlement.finish(delivery, result.outcome)
        elif isinstance(event, Drain):
            lane.is_draining = True
        else:
            raise RemoteProtocolError(f"{lane.name} sends {type(event).__name__}, which is not its to say.")

    def _advance(self, now: float) -> list[Peer]:
        """Act on what has changed; return the peers that have something to write. The lock is held."""
        touched = [self._peers[lane] for lane in self._dispatch.assign(now)] if self._dispatch.waiting_bytes else []
        for settled in self._dispatch.take_settled():
            self._settlement.settle(settled)
        if self._results.has_questions:
            touched += self._ask()
        if self._dispatch.waiting_bytes or self._results.needs_connection or any(self._was_wanted):
            self._tell_wanted(now)  # Else less is under way than before, and nothing new is wanted for that.
        return touched

    def _ask(self) -> list[Peer]:
        """Ask the master for final outcomes; without a connection that is done when there is one."""
        lane = self._dispatch.backlog
        peer = self._peers.get(lane) if lane is not None else None
        if peer is None:
            self._tell_wanted(time.monotonic())
            return []
        while question := self._results.take_question():
            peer.send_control(subscribe_frame(question))
        return [peer]

    def _tell_wanted(self, now: float) -> None:
        is_asked = now >= self._dispatch.engines_from  # Before that, it comes and goes with each few messages.
        wants_backlog = self._dispatch.wants_backlog(now, has_questions=self._results.needs_connection)
        wanted = (is_asked and self._dispatch.wants_engines(now), wants_backlog)
        if any(is_now and not was for is_now, was in zip(wanted, self._was_wanted, strict=True)):
            self.on_wanted()
        self._was_wanted = wanted

    def _flush(self, peers: Iterable[Peer], *, insists: bool = False) -> None:
        for peer in peers:
            self.pump.flush(peer, insists=insists)
        self.tidy()

    def tidy(self) -> None:
        """Do what settling left to do without the lock."""
        if self._settlement.is_tidy:
            return
        self._settlement.tidy()
        if self._spool_line.waiting:
            with self.lock:
                self.pump.tell_waiters()

    # ── what the control thread asks and tells ───────────────────────────────────────────────────────────────────────

    def wants_engines(self) -> bool:
        with self.lock:
            return self._dispatch.wants_engines(time.monotonic())

    def engines_expected(self, from_s: float) -> None:
        """More engines may come from this time on, not before."""
        with self.lock:
            if self.is_closed:
                return
            self._dispatch.engines_from = from_s
            touched = self._advance(time.monotonic())
        self._flush(touched)

    def engines_lacking(self) -> int:
        with self.lock:
            return self._dispatch.engines_lacking(time.monotonic())

    def wants_backlog(self) -> bool:
        with self.lock:
            return self._dispatch.wants_backlog(time.monotonic(), has_questions=self._results.needs_connection)

    def open_peer(self, peer: Peer) -> None:
        """A connection is open: use it."""
        with self.lock:
            if not self.is_closed:
                self._peers[peer.lane] = peer
                self._dispatch.lane_opened(peer.lane, time.monotonic())
                self._ask()
                self.pump.add(peer)
                return
        peer.end()

    def end_idle(self, idle_s: float) -> None:
        """Close the engine connections that were idle for so long."""
        since = time.monotonic() - idle_s
        with self.lock:
            idle = [peer for lane, peer in self._peers.items() if not lane.is_backlog and peer.was_idle_since(since)]
            for peer in idle:
                peer.lane.is_draining = True
        for peer in idle:
            peer.say_goodbye()
            self.pump.end(peer, ConnectionEnded("It was idle for the term of its lease."))

    def engine_gone(self, peer: Peer) -> None:
        """The master says that this engine is gone: its messages are sent elsewhere."""
        self.pump.end(peer, ConnectionEnded(f"{peer.lane.name} is gone, says the master."))

    def granted(self, grant: LeaseGrant) -> None:
        with self.lock:
            self._refusal = None
            self._dispatch.handler_timeout_s, self._dispatch.window_s = grant.timeout_s, grant.window_s
            self._dispatch.pause.keeps_order = grant.is_ordered

    def refused(self, error: HarmonicIOError) -> None:
        """The master does not let this source send: without connections, that makes no sense any more."""
        with self.lock:
            if not self._peers:
                self._refusal = error
                self.pump.tell_waiters()
                return
        _log.warning("%s", error)
