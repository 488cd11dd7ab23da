"""Placement never loses or invents an engine, and never overfills a worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from harmonicio.master.placement import POLICIES, Host, Placement, place
from harmonicio.master.routing import Candidate, choose

STREAMS = ["a", "b", "c"]
COUNTS = st.dictionaries(st.sampled_from(STREAMS), st.integers(0, 6))


@st.composite
def hosts(draw: st.DrawFn) -> list[Host]:
    names = draw(st.lists(st.sampled_from([f"w{n}" for n in range(6)]), unique=True))
    return [Host(name, draw(st.integers(0, 8)), draw(st.none() | COUNTS), draw(COUNTS)) for name in names]


def totals(placement: Placement) -> Counter[str]:
    return sum((Counter(counts) for counts in placement.placed.values()), Counter())


def again(known: list[Host], placement: Placement) -> list[Host]:
    return [Host(host.worker, host.max_engines, placement.placed[host.worker], host.running) for host in known]


@given(hosts(), COUNTS, st.sampled_from(POLICIES))
@settings(deadline=None)
def test_every_wanted_engine_is_placed_once_or_counted_as_unplaced(
    known: list[Host], wanted: Mapping[str, int], policy: str
) -> None:
    placement = place(known, wanted, policy)
    assert totals(placement) + Counter(placement.unplaced) == Counter({s: n for s, n in wanted.items() if n})


@given(hosts(), COUNTS, st.sampled_from(POLICIES))
@settings(deadline=None)
def test_no_worker_gets_more_than_it_has_room_for_and_none_is_left_while_engines_wait(
    known: list[Host], wanted: Mapping[str, int], policy: str
) -> None:
    placement = place(known, wanted, policy)
    room = {host.worker: host.max_engines - sum(placement.placed[host.worker].values()) for host in known}
    assert all(left >= 0 for left in room.values())
    assert not placement.unplaced or not any(room.values())


@given(hosts(), st.lists(st.frozensets(st.sampled_from(STREAMS))), COUNTS, st.sampled_from(POLICIES))
@settings(deadline=None)
def test_no_worker_gets_a_stream_that_it_cannot_start_and_what_it_can_start_does_not_wait(
    known: list[Host], able: list[frozenset[str]], wanted: Mapping[str, int], policy: str
) -> None:
    some = [replace(host, streams=streams) for host, streams in zip(known, able, strict=False)] + known[len(able) :]
    placement = place(some, wanted, policy)
    room = {host.worker: host.max_engines - sum(placement.placed[host.worker].values()) for host in some}
    for host in some:
        assert all(host.can_start(stream) for stream in placement.placed[host.worker])
        assert not room[host.worker] or not any(host.can_start(stream) for stream in placement.unplaced)
    assert totals(placement) + Counter(placement.unplaced) == Counter({s: n for s, n in wanted.items() if n})


@given(hosts(), COUNTS, st.sampled_from(POLICIES))
@settings(deadline=None)
def test_placing_again_changes_nothing(known: list[Host], wanted: Mapping[str, int], policy: str) -> None:
    placement = place(known, wanted, policy)
    assert place(again(known, placement), wanted, policy) == placement


@given(hosts(), COUNTS, COUNTS, st.sampled_from(POLICIES))
@settings(deadline=None)
def test_a_stream_that_does_not_shrink_keeps_every_engine_where_it_is(
    known: list[Host], wanted: Mapping[str, int], more: Mapping[str, int], policy: str
) -> None:
    before = place(known, wanted, policy)
    grown = {stream: wanted.get(stream, 0) + more.get(stream, 0) for stream in STREAMS}
    after = place(again(known, before), grown, policy)
    for worker, counts in before.placed.items():
        for stream, count in counts.items():
            assert after.placed[worker].get(stream, 0) >= count


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    names = draw(st.lists(st.integers(0, 30), unique=True))
    return [
        Candidate(f"e{n}", draw(st.sampled_from(["w1", "w2", "w3"])), draw(st.booleans()), *draw(HOLDS)) for n in names
    ]


HOLDS = st.sampled_from([(0, False), (1, False), (1, True), (2, False), (2, True)])


@given(candidates(), st.integers(0, 10))
@settings(deadline=None)
def test_routing_names_each_engine_once_and_no_shared_one_while_a_free_one_is_left(
    known: list[Candidate], count: int
) -> None:
    choice = choose(known, count)
    names = [item.engine for item in choice.engines]
    assert len(names) == len(set(names)) == min(count, sum(not item.is_held for item in known))
    assert not any(item.is_held for item in choice.engines)
    free = sum(item.is_free for item in known)
    assert sum(item.is_free for item in choice.engines) == min(count, free)
