"""Whatever happens in whatever order: each message is in exactly one state, and nothing is lost, doubled or leaked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, invariant, multiple, rule

from harmonicio.core.message import Failure
from harmonicio.master.backlog.dead_letters import DeadLetters
from harmonicio.master.backlog.digest import digest_of
from harmonicio.master.backlog.entry import (
    Charge,
    Decision,
    Entry,
    PutVerdict,
    Reservation,
    RetryPolicy,
    State,
    Verdict,
)
from harmonicio.master.backlog.ledger import Ledger
from harmonicio.master.backlog.reservations import engine_of

STREAMS = ("plates", "wells", "rows")
ORDERED = "rows"
ENGINES = ("e1", "e2")
MAX_ATTEMPTS, MAX_CRASHES = 2, 2
TIMEOUT_S = 50.0
BURIED = ("dead", "unburying")


@dataclass
class Known:
    """What the model knows of one message."""

    entry: Entry
    state: str
    attempts: int = 0
    crashes: int = 0
    ready_at: float = 0.0
    expires_at: float = 0.0
    is_suspect: bool = False


class LedgerMachine(RuleBasedStateMachine):
    """A ledger beside a model that keeps everything in one dictionary and sorts it whenever it is asked."""

    reservations = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        for stream in STREAMS:
            self.ledger.set_policy(stream, RetryPolicy(MAX_ATTEMPTS, MAX_CRASHES, TIMEOUT_S, stream == ORDERED))
        self.dead_letters = DeadLetters(self.ledger.books)
        self.taken: list[tuple[str, list[Entry]]] = []
        self.now = 0.0
        self.known: dict[tuple[str, str], Known] = {}
        self.held: dict[int, tuple[Reservation, Known]] = {}
        self.sent: set[int] = set()
        self.finished: dict[tuple[str, str], bytes] = {}
        self.charged: dict[tuple[str, str], tuple[int, int]] = {}
        self.late: Counter[str] = Counter()

    # ── coming in ────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(
        stream=st.sampled_from(STREAMS),
        number=st.integers(0, 7),
        payload=st.sampled_from([b"", b"one", b"two"]),
        priority=st.integers(-2, 2),
        is_given_up=st.sampled_from([False, False, False, True]),
        is_stored=st.sampled_from([True, True, False]),
    )
    def put(self, stream: str, number: int, payload: bytes, priority: int, is_given_up: bool, is_stored: bool) -> None:
        key = (stream, f"m{number}")
        entry = Entry(
            *key, self.ledger.draw_sequence(), len(payload), priority=priority, digest=digest_of(payload), section=b"s"
        )
        assert self.ledger.admit(len(payload)) is None
        verdict, failure = self.ledger.put(entry, self.now, is_given_up=is_given_up)
        before = self.known[key].entry.digest if key in self.known else self.finished.get(key)
        if before is None:
            assert verdict is PutVerdict.NEW
            attempts, crashes = self.charged.get(key, (0, 0))
            is_dead = is_given_up or attempts >= MAX_ATTEMPTS or crashes >= MAX_CRASHES
            assert (failure is not None) == is_dead
            self.known[key] = Known(entry, "storing to dead" if is_dead else "storing", attempts, crashes)
            if is_stored:
                self.store(stream, True)
            return
        self.ledger.withdraw(len(payload))
        if before != entry.digest:
            assert verdict is PutVerdict.CONFLICT
        elif key in self.known and self.known[key].state.startswith("storing"):
            assert verdict is PutVerdict.STORING
        else:
            assert verdict is PutVerdict.KNOWN

    @rule(stream=st.sampled_from(STREAMS), is_stored=st.booleans())
    def store(self, stream: str, is_stored: bool) -> None:
        for key, known in list(self.known.items()):
            if key[0] != stream or not known.state.startswith("storing"):
                continue
            if not is_stored:
                self.ledger.abandon(known.entry)
                del self.known[key]
                continue
            self.charged.pop(key, None)  # Only now: of a copy that was not stored, another may come.
            is_dead = known.state == "storing to dead"
            decision = self.ledger.stored(known.entry, Failure("GivenUp", "why") if is_dead else None)
            if is_dead:
                known.state = "dead"
                assert decision.verdict is Verdict.DEAD
            else:
                self._expect_given_back(known, decision, self.now)

    # ── going out ────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(target=reservations, stream=st.sampled_from(STREAMS), engine=st.sampled_from(ENGINES), is_sent=st.booleans())
    def reserve(self, stream: str, engine: str, is_sent: bool) -> Reservation | MultipleResults[Reservation]:
        reservation = self._reserve(stream, engine)
        if reservation is None:
            return multiple()
        if is_sent:
            assert self.ledger.sending(reservation)
            self.ledger.sent(reservation, self.now)
            self.sent.add(reservation.token)
        return reservation

    def _reserve(self, stream: str, engine: str) -> Reservation | None:
        mine = [known for key, known in self.known.items() if key[0] == stream]
        mine.sort(key=lambda known: (-known.entry.priority, known.entry.sequence))
        ready = [known for known in mine if known.state == "ready"]
        if stream == ORDERED:
            undone = [known for known in mine if known.state in ("ready", "storing", "storing to dead")]
            is_held_up = any(known.state == "reserved" for known in mine) or undone[:1] != ready[:1]
            ready = [] if is_held_up else ready[:1]
        ready = [known for known in ready if known.ready_at <= self.now]
        self.ledger.promote(self.now)
        size_bytes = self.ledger.books.next_size(stream)
        reservation = self.ledger.reserve(stream, engine, self.now)
        assert size_bytes == (None if reservation is None else reservation.entry.size_bytes)
        if not ready:
            assert reservation is None
            return None
        assert reservation is not None and reservation.entry is ready[0].entry
        assert reservation.attempt == ready[0].attempts + 1
        ready[0].state, ready[0].expires_at = "reserved", self.now + TIMEOUT_S
        self.held[reservation.token] = (reservation, ready[0])
        return reservation

    @rule(reservation=reservations)
    def answer(self, reservation: Reservation) -> None:
        """The engine that has, or had, it says something: what it holds now counts from here."""
        self.ledger.progressed(engine_of(reservation.holder), self.now)
        for held, known in self.held.values():
            if engine_of(held.holder) == engine_of(reservation.holder):
                known.expires_at = self.now + TIMEOUT_S

    @rule(reservation=reservations, is_settled=st.booleans())
    def finish(self, reservation: Reservation, is_settled: bool) -> None:
        known = self._let_go(reservation)
        decision = self.ledger.finish(reservation)
        if known is None:
            self._expect_late(decision)
            return
        assert decision.verdict is Verdict.SETTLING
        known.state = "settling"
        if is_settled:
            self._settle(known)

    @rule()
    def settle_all(self) -> None:
        for known in list(self.known.values()):
            if known.state == "settling":
                self._settle(known)

    def _settle(self, known: Known) -> None:
        self.ledger.settled(known.entry, self.now)
        key = (known.entry.stream, known.entry.message_id)
        self.finished[key] = known.entry.digest
        del self.known[key]

    @rule(reservation=reservations, is_retryable=st.booleans(), jitter=st.floats(0, 0.99))
    def fail(self, reservation: Reservation, is_retryable: bool, jitter: float) -> None:
        known = self._let_go(reservation)
        failure = Failure("ValueError", "no", retryable=is_retryable)
        decision = self.ledger.fail(reservation, failure, self.now, jitter)
        if known is None:
            self._expect_late(decision)
            return
        known.attempts += 1
        if not is_retryable:
            assert (decision.verdict, decision.failure) == (Verdict.DEAD, failure)
            known.state = "dead"
        else:
            self._expect_given_back(known, decision, known.entry.not_before)
            assert known.state == "dead" or known.entry.not_before > self.now

    @rule(reservation=reservations, pause_s=st.sampled_from([0.1, 3.0]))
    def release(self, reservation: Reservation, pause_s: float) -> None:
        known = self._let_go(reservation)
        decision = self.ledger.release(reservation, self.now, pause_s)
        if known is None:
            self._expect_late(decision)
            return
        self._expect_given_back(known, decision, self.now + pause_s)

    @rule(reservation=reservations, jitter=st.floats(0, 0.99))
    def put_off(self, reservation: Reservation, jitter: float) -> None:
        known = self._let_go(reservation)
        decision = self.ledger.put_off(reservation, self.now, jitter)
        if known is None:
            self._expect_late(decision)
            return
        self._expect_given_back(known, decision, known.entry.not_before)
        assert known.state == "dead" or known.entry.not_before > self.now

    @rule(stream=st.sampled_from(STREAMS))
    def recall(self, stream: str) -> None:
        self.ledger.promote(self.now)
        mine = [known for key, known in self.known.items() if key[0] == stream and known.state == "ready"]
        mine.sort(key=lambda known: (-known.entry.priority, known.entry.sequence))
        offered = [known for known in mine if known.ready_at <= self.now or known.entry.is_put_off]
        is_any = bool(offered) and offered[0].ready_at > self.now
        size_bytes = self.ledger.books.put_off_size(stream)
        if stream == ORDERED:  # What is recalled may still have to wait for others.
            offered = [known for known in offered if known.ready_at > self.now]
            is_any = size_bytes is not None
        assert size_bytes == (offered[0].entry.size_bytes if is_any else None)
        self.ledger.recall(stream)
        if is_any:
            assert offered[0].entry.state is State.READY
            offered[0].ready_at = self.now

    @rule(engine=st.sampled_from(ENGINES))
    def end_connection(self, engine: str) -> None:
        mine = [(token, known) for token, (held, known) in sorted(self.held.items()) if held.holder == engine]
        decisions = self.ledger.release_all(engine)
        assert len(decisions) == len(mine)
        for (token, known), decision in zip(mine, decisions, strict=True):
            del self.held[token]
            known.is_suspect = known.is_suspect or token in self.sent
            assert known.entry.is_suspect == known.is_suspect, "only what had left the master can have done harm"
            self._expect_given_back(known, decision, self.now)

    # ── what people do ───────────────────────────────────────────────────────────────────────────────────────────────

    @rule(stream=st.sampled_from(STREAMS), verb=st.sampled_from(["replay", "purge"]), limit=st.integers(1, 3))
    def take_dead(self, stream: str, verb: str, limit: int) -> None:
        mine = [known for key, known in self.known.items() if key[0] == stream and known.state in BURIED]
        mine.sort(key=lambda known: known.entry.sequence)
        page = self.dead_letters.page(stream, 0, limit)
        assert page == [known.entry for known in mine[:limit]]
        taken = self.dead_letters.take(page)
        assert taken == [known.entry for known in mine[:limit] if known.state == "dead"]
        for known in mine[:limit]:
            known.state = "unburying"
        self.taken.append((verb, taken))

    @rule(stream=st.sampled_from(STREAMS), number=st.integers(0, 7), priority=st.integers(-2, 2))
    def prioritise(self, stream: str, number: int, priority: int) -> None:
        known = self.known.get((stream, f"m{number}"))
        before = None if known is None else known.entry.priority
        answer = self.ledger.books.prioritise(stream, f"m{number}", priority)
        if known is not None and known.state == "ready":
            assert answer is known.entry and known.entry.priority == priority
        else:
            assert isinstance(answer, str) and (known is None or known.entry.priority == before)

    @rule(is_written=st.sampled_from([True, True, False]))
    def write_what_was_taken(self, is_written: bool) -> None:
        taken, self.taken = self.taken, []
        for verb, entries in taken:
            knowns = [self.known[entry.stream, entry.message_id] for entry in entries]
            if not is_written:
                self.dead_letters.left(entries)
                for known in knowns:
                    known.state = "dead"
            elif verb == "replay":
                self.dead_letters.revived(entries)
                for known in knowns:
                    known.state, known.attempts, known.crashes, known.ready_at = "ready", 0, 0, 0.0
            else:
                self.dead_letters.purged(entries)
                for known in knowns:
                    del self.known[known.entry.stream, known.entry.message_id]

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(seconds=st.sampled_from([0.1, 1.0, 1.0, 30.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        over = {token for token, (_, known) in self.held.items() if known.expires_at <= self.now}
        decisions = {decision.entry.sequence: decision for decision in self.ledger.expire(self.now)}
        assert len(decisions) == len(over)
        for token in over:
            _, known = self.held.pop(token)
            self._expect_given_back(known, decisions[known.entry.sequence], self.now)

    @rule(stream=st.sampled_from(STREAMS), number=st.integers(0, 7), charge=st.sampled_from([(1, 0), (0, 1)]))
    def end_engine(self, stream: str, number: int, charge: tuple[int, int]) -> None:
        key, (attempts, crashes) = (stream, f"m{number}"), charge
        decisions = self.ledger.charge(stream, [key[1]], Charge(attempts, crashes), self.now)
        known = self.known.get(key)
        if known is None or known.state.startswith("storing"):
            before = self.charged.get(key, (0, 0))
            self.charged[key] = (before[0] + attempts, before[1] + crashes)
        if known is None or known.state in ("settling", *BURIED):
            assert decisions == []
        else:
            known.attempts += attempts
            known.crashes += crashes
            if known.state == "ready" and (known.attempts >= MAX_ATTEMPTS or known.crashes >= MAX_CRASHES):
                known.state = "dead"
                assert decisions[0].verdict is Verdict.DEAD

    # ── what always holds ────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def gauges_agree_with_the_model(self) -> None:
        for stream in STREAMS:
            mine = [known for key, known in self.known.items() if key[0] == stream]
            states = [known.state for known in mine]
            figures = self.ledger.books.figures(stream, 0.0)
            assert figures.late_total == self.late[stream]
            assert figures.ready == states.count("ready")
            assert figures.reserved == states.count("reserved") + states.count("settling")
            assert figures.dead == sum(state in BURIED for state in states)
            waiting = [known for known in mine if known.state in ("ready", "reserved", "settling")]
            assert figures.waiting_bytes == sum(known.entry.size_bytes for known in waiting)
        budget = self.ledger.books.budget
        assert budget.messages == len(self.known)
        assert budget.used_bytes == sum(known.entry.cost_bytes for known in self.known.values())
        assert budget.dead_bytes == sum(
            known.entry.cost_bytes for known in self.known.values() if known.state in BURIED
        )

    def teardown(self) -> None:
        """Everything can be brought to an end, and then nothing is left."""
        for stream in STREAMS:
            self.store(stream, True)
        self.write_what_was_taken(True)
        for engine in ENGINES:
            self.end_connection(engine)
        self.now += 1e6
        for stream in STREAMS:
            while (reservation := self._reserve(stream, "e1")) is not None:
                self.finish(reservation, True)
        self.settle_all()
        assert all(known.state == "dead" for known in self.known.values())
        self.gauges_agree_with_the_model()
        for stream in STREAMS:
            self.ledger.drop_stream(stream, self.ledger.draw_sequence())
        budget = self.ledger.books.budget
        assert (budget.messages, budget.used_bytes, budget.section_bytes, budget.dead_bytes) == (0, 0, 0, 0)

    def _let_go(self, reservation: Reservation) -> Known | None:
        held = self.held.pop(reservation.token, None)
        return None if held is None else held[1]

    def _expect_late(self, decision: Decision) -> None:
        """The attempt had been given up: its outcome is counted, and nothing else."""
        assert (decision.verdict, decision.failure, decision.has_changed) == (Verdict.LATE, None, False)
        self.late[decision.entry.stream] += 1

    def _expect_given_back(self, known: Known, decision: Decision, ready_at: float) -> None:
        if known.attempts >= MAX_ATTEMPTS or known.crashes >= MAX_CRASHES:
            assert decision.verdict is Verdict.DEAD and decision.failure is not None
            known.state = "dead"
        else:
            assert decision.verdict is Verdict.READY
            known.state, known.ready_at = "ready", ready_at


def test_what_a_controller_charged_counts_for_the_next_copy_when_one_could_not_be_stored() -> None:
    machine = LedgerMachine()
    machine.put("plates", 0, b"", 0, is_given_up=False, is_stored=False)
    machine.end_engine("plates", 0, (1, 0))
    machine.store("plates", is_stored=False)
    machine.put("plates", 0, b"", 0, is_given_up=False, is_stored=True)
    assert machine.known["plates", "m0"].attempts == 1
    machine.teardown()


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
