"""Control messages that come twice, late or in another order: only the newest word of each counts."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from harmonicio.control.messages import (
    EngineExit,
    EngineReport,
    HostLoad,
    LeaseRequest,
    StreamTrouble,
    WorkerRegistration,
    WorkerReport,
)
from harmonicio.core.engine import Availability, ExitReason
from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.directory import Directory
from harmonicio.master.leases import LeaseTable
from harmonicio.master.state import MasterState

NOW = 50.0
PLATES = StreamDeclaration("plates", handler="/h.py", engines=3, version=1)
ENGINES = ("e1", "e2", "e3")
states = st.sampled_from([each for each in Availability if each is not Availability.LOST])


@st.composite
def reports_of_a_worker(draw: st.DrawFn) -> list[WorkerReport]:
    """What one controller says, in its order; an exit is repeated, as it is until the master has heard of it."""
    told, gone = [], dict[str, EngineExit]()
    for sequence in range(1, draw(st.integers(2, 7))):
        for engine in draw(st.sets(st.sampled_from(ENGINES), max_size=1)):
            gone.setdefault(engine, EngineExit(engine, "plates", draw(st.sampled_from(ExitReason)), "signal 9", ("m",)))
        engines = tuple(
            EngineReport(engine, "plates", 1, draw(states), 0.0, Address("127.0.0.1", 4000))
            for engine in ENGINES
            if engine not in gone and draw(st.booleans())
        )
        load = HostLoad(sequence / 10, sequence, 2, 3)
        troubles = (StreamTrouble("plates", f"trouble {sequence}", 1.0),) if draw(st.booleans()) else ()
        told.append(WorkerReport(sequence, engines, exits=tuple(gone.values()), load=load, troubles=troubles))
    return told


@st.composite
def delivered(draw: st.DrawFn) -> tuple[list[WorkerReport], list[WorkerReport]]:
    """The reports as they were sent, and as a network brings them: some twice, each at most three places off."""
    sent = draw(reports_of_a_worker())
    copies = [report for report in sent for _ in range(draw(st.integers(1, 3)))]
    places = [(at + draw(st.integers(0, 3)), at) for at in range(len(copies))]
    return sent, [copies[at] for _, at in sorted(places)]


def master() -> MasterState:
    state = MasterState(
        directory=Directory(), leases=LeaseTable(id_prefix="t", term_s=60.0), streams=[PLATES], first_generation=1
    )
    state.register(WorkerRegistration("w1", "127.0.0.1", 5, "memory", "1"), NOW)
    return state


def seen(state: MasterState) -> tuple[Any, ...]:
    """Return all that a master knows of workers, engines and leases."""
    workers = [
        (name, each.registration, each.state, each.sequence, each.load, each.troubles, each.unreachable)
        for name, each in state.directory.workers()
    ]
    known = [state.directory.engine(engine) for engine in ENGINES]
    engines = [each and (each.worker, each.report, each.state, each.since, each.has_ended) for each in known]
    leasable = [state.directory.can_be_leased(engine) for engine in ENGINES]
    held = [state.leases.count_on(engine) for engine in ENGINES]
    return workers, engines, leasable, held, state.desired("w1"), state.counts("plates")


@given(delivered())
def test_what_comes_again_or_late_changes_nothing(told: tuple[list[WorkerReport], list[WorkerReport]]) -> None:
    _, brought = told
    newest, news = 0, []
    for report in brought:
        if report.sequence > newest:
            newest = report.sequence
            news.append(report)
    disturbed, calm = master(), master()
    heard = [disturbed.report("w1", report, NOW) for report in brought]
    expected = [calm.report("w1", report, NOW) for report in news]
    assert seen(disturbed) == seen(calm)
    # Nor is an engine's exit, which counts crashes, heard of twice.
    assert [each for item in heard for each in item.exits] == [each for item in expected for each in item.exits]


@given(delivered())
def test_the_last_word_of_a_worker_counts_whatever_came_before_it(
    told: tuple[list[WorkerReport], list[WorkerReport]],
) -> None:
    sent, brought = told
    if not sent:
        return
    state = master()
    heard = [state.report("w1", report, NOW) for report in brought]
    last = sent[-1]
    shown = dict(state.directory.workers())["w1"]
    assert (shown.sequence, shown.load, shown.troubles) == (last.sequence, last.load, last.troubles)
    there = {name: engine.state for name, engine in shown.engines.items() if engine.is_there}
    assert there == {each.engine: each.state for each in last.engines}
    exits = [each.engine for item in heard for each in item.exits]
    assert sorted(exits) == sorted(each.engine for each in last.exits)


def with_leases() -> tuple[MasterState, list[str]]:
    state = master()
    engines = [EngineReport(each, "plates", 1, Availability.IDLE, 0.0, Address("127.0.0.1", 4000)) for each in ENGINES]
    state.report("w1", WorkerReport(1, tuple(engines)), NOW)
    decision = state.request_leases(LeaseRequest("plates", "camera", 3, ()), NOW)
    return state, [each.held.lease for each in decision.granted]


said = st.lists(st.tuples(st.sampled_from(["renew", "release"]), st.sets(st.integers(0, 3)), st.booleans()), max_size=6)


@given(said)
def test_what_is_said_of_leases_twice_counts_once(words: list[tuple[str, set[int], bool]]) -> None:
    (once, held), (twice, _) = with_leases(), with_leases()
    for at, (word, which, is_repeated) in enumerate(words):
        named = [[*held, "unknown"][each] for each in sorted(which)]
        for state, times in ((once, 1), (twice, 2 if is_repeated else 1)):
            for _ in range(times):
                if word == "renew":
                    answer = state.renew("camera", named, NOW + 30 * at)
                    assert "unknown" not in answer.renewed
                else:
                    state.release("camera", named)
        for state in (once, twice):
            state.leases.expire(NOW + 30 * at)
        assert seen(once) == seen(twice)


def test_who_asks_for_leases_again_because_the_answer_was_lost_holds_no_more_than_asked_for() -> None:
    state, _ = with_leases()
    for _ in range(3):
        decision = state.request_leases(LeaseRequest("plates", "camera", 3, ()), NOW)
        assert len(decision.granted) == 3
    assert [state.leases.count_on(engine) for engine in ENGINES] == [1, 1, 1]


@given(st.permutations(["renew", "release", "renew late"]))
def test_a_lease_that_was_given_back_stays_given_back(order: list[str]) -> None:
    state = master()
    engines = (EngineReport("e1", "plates", 1, Availability.IDLE, 0.0, Address("127.0.0.1", 4000)),)
    state.report("w1", WorkerReport(1, engines), NOW)
    (granted,) = state.request_leases(LeaseRequest("plates", "camera", 1, ()), NOW).granted
    lease = granted.held.lease
    for at, word in enumerate(order, start=1):
        if word == "release":
            state.release("camera", [lease])
        else:
            answer = state.renew("camera", [lease], NOW + at)
            assert (lease in answer.renewed) == ("release" not in order[: at - 1])
    assert state.leases.count_on("e1") == 0
