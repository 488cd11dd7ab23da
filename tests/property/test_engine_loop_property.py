"""Whatever happens to an engine: its credit stays within bounds, nobody starves, and nothing stored waits for nothing.

The model drives the loop as its shell does, with the sending ends of the connections (SenderCredit) beside it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from harmonicio.engine.loop import ALONE_GRACE_S, OVERTAKEN_FOR_S, SUSPECT_GRACE_S, EngineLoop
from harmonicio.engine.peer import IDLE_AFTER_S, Peer
from harmonicio.wire.credit import SenderCredit

BUDGET = 1_000_000
SIZES = st.sampled_from([0, 1, 1_000, 60_000, 400_000, 3_000_000])


@dataclass(eq=False)
class Connection:
    peer: Peer
    sender: SenderCredit = field(default_factory=SenderCredit)


@dataclass(eq=False)
class Message:
    connection: Connection
    size_bytes: int
    came_at: float
    is_suspect: bool = False

    @property
    def is_stored(self) -> bool:
        return self.connection.peer.is_backlog


class Engine(RuleBasedStateMachine):
    @initialize(concurrency=st.integers(1, 4), prefetch_s=st.sampled_from([0.0, 0.1, 1.0]), has_master=st.booleans())
    def start(self, concurrency: int, prefetch_s: float, has_master: bool) -> None:
        self.loop = EngineLoop(concurrency, prefetch_s, BUDGET)
        self.concurrency = concurrency
        self.now = 0.0
        self.connections: list[Connection] = []
        self.running: deque[Message] = deque()
        self.waiting: list[Message] = []
        self.again_at: float | None = None
        self.master: Connection | None = None
        if has_master:
            self.master = self._join("master", is_backlog=True)

    # ── what the shell does ──────────────────────────────────────────────────────────────────────────────────────────

    def _join(self, name: str, *, is_backlog: bool = False) -> Connection:
        connection = Connection(Peer(name, is_backlog=is_backlog))
        self.connections.append(connection)
        self.loop.join(connection.peer, self.now)
        self._review()
        return connection

    def _review(self) -> None:
        """Ask for grants and check what may change by them."""
        before = {each: (each.peer.credit.messages_total, each.peer.credit.bytes_total) for each in self.connections}
        open_bytes = {each: each.peer.open_bytes for each in self.connections}
        self._refuse_all(self.loop.turn_away(self.now))
        told, self.again_at = self.loop.grants(self.now)
        assert not (told and self.loop.is_kept_for_suspect), "nobody gets credit while a suspect waits or runs"
        active = [each.peer for each in self.connections if not each.peer.is_backlog and each.peer.is_active(self.now)]
        for each in self.connections:
            messages_total, bytes_total = each.peer.credit.messages_total, each.peer.credit.bytes_total
            assert messages_total >= before[each][0]
            assert bytes_total >= before[each][1]
            if (messages_total, bytes_total) != before[each]:
                assert each.peer in told
                each.sender.granted(messages_total, bytes_total)
                if not each.peer.is_backlog:
                    self._check_growth(each, before[each][0], open_bytes[each], active)

    def _check_growth(self, grown: Connection, messages_before: int, open_before: int, active: list[Peer]) -> None:
        assert self.loop.depth == 0, "connectors get nothing new while messages wait in the backlog"
        is_first_message = messages_before == 0 and grown.peer.credit.messages_total == 1
        if not is_first_message and grown.peer.credit.messages_total > messages_before:
            is_one_at_a_time = grown.peer.open == 1 and len(active) <= self.loop.window
            assert sum(peer.open for peer in active) <= max(self.loop.window, 1) or is_one_at_a_time
        if grown.peer.open_bytes > open_before:
            assert sum(peer.open_bytes for peer in active) <= BUDGET

    def _check_turn(self, following: Message) -> None:
        suspects = [each for each in self.waiting if each.is_suspect]
        if following.is_suspect:
            assert following is suspects[0], "suspects keep their order"
            assert not self.running, "a suspect runs alone"
            return
        assert not any(each.is_suspect for each in self.running), "nothing runs beside a suspect"
        assert not suspects or following.came_at <= suspects[0].came_at, (
            "what came after a suspect does not overtake it"
        )
        ordinary = [each for each in self.waiting if not each.is_suspect]
        others = [each for each in ordinary if each.is_stored != following.is_stored]
        alike = [each for each in ordinary if each.is_stored == following.is_stored]
        assert following is alike[0], "nobody overtakes those of the same kind"
        if following.is_stored:
            assert all(self.now - each.came_at < OVERTAKEN_FOR_S for each in others), "credit is honoured"
        elif self.now - following.came_at < OVERTAKEN_FOR_S:
            assert not others, "the backlog goes first"

    def _offer(self, message: Message) -> None:
        """Start a message, queue it, or send it elsewhere, as the shell does."""
        loop, now = self.loop, self.now
        if loop.take_all_slots(now) if message.is_suspect else loop.take_slot():
            self._start(message)
        elif loop.is_clogged(now, is_backlog=message.is_stored, is_suspect=message.is_suspect):
            message.connection.peer.started_elsewhere += 1
            self._answered(message)
        else:
            self.waiting.append(message)
            if message.is_suspect:
                loop.wait_for_all_slots(message, now)
            else:
                loop.wait_for_slot(message, now, is_backlog=message.is_stored)

    def _refuse_all(self, messages: list[Message]) -> None:
        suspects = [each for each in [*self.running, *self.waiting] if each.is_suspect]
        for message in messages:
            assert suspects and self._has_waited(suspects[0], ALONE_GRACE_S), (
                "only a suspect that takes long is a reason"
            )
            is_long = suspects[0] not in self.running and self._has_waited(suspects[0], SUSPECT_GRACE_S)
            assert message is not suspects[0] or is_long, (
                "a suspect that is next stays, unless all slots are not free soon"
            )
            self.waiting.remove(message)
            message.connection.peer.started_elsewhere += 1
            self._answered(message)

    def _has_waited(self, message: Message, for_s: float) -> bool:
        return self.now >= message.came_at + for_s  # Not the difference, which is rounded in another place.

    def _answered(self, message: Message) -> None:
        message.connection.peer.credit.message_answered(message.size_bytes)
        message.connection.sender.outcomes_received(0, 0)

    def _start(self, message: Message) -> None:
        message.connection.peer.started_here += 1
        self.running.append(message)

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: len(self.connections) < 8)
    @rule()
    def a_connector_joins(self) -> None:
        self._join(f"source {len(self.connections)}")

    @precondition(lambda self: len(self.connections) > 1)
    @rule(data=st.data())
    def a_peer_leaves(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.connections))
        self.connections.remove(gone)
        if gone is self.master:
            self.master = None
        self.loop.leave(gone.peer)
        self._review()

    @rule(data=st.data(), size_bytes=SIZES, count=st.integers(1, 20), is_suspect=st.sampled_from([False, False, True]))
    def a_peer_sends(self, data: st.DataObject, size_bytes: int, count: int, is_suspect: bool) -> None:
        if not self.connections:
            return
        connection = data.draw(st.sampled_from(self.connections))
        for _ in range(count):
            if not connection.sender.can_send(size_bytes):
                break
            connection.sender.message_sent(size_bytes)
            assert connection.peer.credit.message_received(size_bytes), "both ends count alike"
            self._offer(Message(connection, size_bytes, self.now, is_suspect))
        self._review()

    @precondition(lambda self: self.running)
    @rule(seconds=st.sampled_from([1e-6, 0.001, 0.05, 2.0]))
    def a_handler_returns(self, seconds: float) -> None:
        message = self.running.popleft()
        self._answered(message)
        self.loop.measured(1, seconds)
        for following in self.loop.free_slot(self.now):
            self._check_turn(following)
            self.waiting.remove(following)
            self._start(following)
        self._review()

    @precondition(lambda self: self.master is not None)
    @rule(depth=st.sampled_from([0, 1, 50]))
    def the_master_tells_its_depth(self, depth: int) -> None:
        self.loop.depth = depth
        self._review()

    @rule(seconds=st.sampled_from([0.001, IDLE_AFTER_S, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.again_at is not None and self.again_at <= self.now:
            self._review()

    @rule()
    def every_connector_is_served_in_the_end(self) -> None:
        """From any state: when all want to send and handlers return, each of them has its turn."""
        if self.loop.depth:
            return
        connectors = [each for each in self.connections if not each.peer.is_backlog]
        waiting_for = set(connectors)
        for _ in range(40 * (len(connectors) + len(self.waiting) + self.concurrency) + 400):
            if not waiting_for:
                return
            for each in connectors:
                if each in waiting_for and each.sender.can_send(0):
                    each.sender.message_sent(0)
                    each.peer.credit.message_received(0)
                    waiting_for.discard(each)
                    self._offer(Message(each, 0, self.now))
            if self.running:
                self.a_handler_returns(0.05)
            self.time_passes(0.01)
        raise AssertionError(f"{len(waiting_for)} connectors were never given credit: {self.loop!r}, {waiting_for}")

    @rule(seconds=st.sampled_from([0.05, 2.0]))
    def whoever_waits_is_started_or_sent_elsewhere_in_bounded_time(self, seconds: float) -> None:
        """Suspects starve nobody and are starved by nobody, although more of both come by the credit that is left."""
        waits = list(self.waiting)
        if len(waits) > 20:
            return  # A crowd shows no more than a few do, and takes long.
        overtaken = int(OVERTAKEN_FOR_S / seconds) * self.concurrency
        granted = sum(
            each.peer.open for each in self.connections
        )  # It is honoured, when handlers are slow by now, too.
        for _ in range(3 * (len(waits) + overtaken + self.concurrency + 1) + granted):
            if not any(each in self.waiting for each in waits):
                return
            for each in self.connections:
                if each.sender.can_send(0) and len(self.waiting) < 40:
                    each.sender.message_sent(0)
                    each.peer.credit.message_received(0)
                    self._offer(Message(each, 0, self.now, is_suspect=bool(self.loop.depth)))
            while self.running:
                was_running = len(self.running)
                self.time_passes(seconds / was_running)
                self.a_handler_returns(seconds)
                if len(self.running) >= was_running:
                    break
        raise AssertionError(f"{self.loop!r} starves {[each for each in waits if each in self.waiting]}")

    # ── what always holds ────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def nobody_waits_while_a_slot_is_free(self) -> None:
        if hasattr(self, "loop"):
            assert not (self.waiting and self.loop.free_slots) or self.loop.is_kept_for_suspect
            assert not (self.waiting and not self.running), "somebody waits and nobody runs"
            assert len(self.running) + self.loop.free_slots == self.concurrency

    @invariant()
    def a_suspect_runs_alone(self) -> None:
        running = getattr(self, "running", [])
        assert len(running) <= 1 or not any(each.is_suspect for each in running)

    @invariant()
    def a_stored_message_can_be_pushed_while_a_slot_is_free(self) -> None:
        if hasattr(self, "loop") and self.master is not None and self.loop.free_slots:
            assert self.master.sender.can_send(0) or self.loop.is_kept_for_suspect

    @invariant()
    def no_more_waits_than_was_granted(self) -> None:
        for each in getattr(self, "connections", []):
            assert each.peer.waiting <= each.peer.open


TestEngine = Engine.TestCase
TestEngine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
