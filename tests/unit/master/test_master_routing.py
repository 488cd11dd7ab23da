"""Routing fills one worker before it touches the next, and says when only the backlog is left."""

from __future__ import annotations

from harmonicio.master.routing import ROUTE_ENGINE, ROUTE_QUEUE, Candidate, choose


def idle(engine: str, worker: str, **more: int | bool) -> Candidate:
    return Candidate(engine, worker, is_idle=True, **more)  # type: ignore[arg-type]


def busy(engine: str, worker: str, **more: int | bool) -> Candidate:
    return Candidate(engine, worker, is_idle=False, **more)  # type: ignore[arg-type]


def names(candidates: list[Candidate], count: int) -> list[str]:
    return [candidate.engine for candidate in choose(candidates, count).engines]


def test_the_worker_with_the_fewest_free_engines_comes_first() -> None:
    candidates = [idle("a1", "a"), idle("a2", "a"), idle("a3", "a"), idle("b1", "b"), idle("b2", "b")]
    assert names(candidates, 3) == ["b1", "b2", "a1"]


def test_one_worker_is_filled_while_the_other_stays_idle() -> None:
    candidates = {name: idle(name, name[0]) for name in ("a1", "a2", "b1", "b2")}
    for expected in ("a1", "a2", "b1", "b2"):
        (chosen,) = choose(candidates.values(), 1).engines
        assert chosen.engine == expected
        candidates[expected] = idle(expected, expected[0], leases=1)


def test_of_workers_with_equally_many_free_engines_the_one_in_use_comes_first() -> None:
    assert names([idle("a1", "a"), idle("b1", "b"), busy("b2", "b", leases=1)], 2) == ["b1", "a1"]


def test_an_engine_that_the_source_holds_is_not_named_again() -> None:
    assert names([idle("a1", "a", leases=1, is_held=True), idle("a2", "a")], 5) == ["a2"]


def test_free_engines_come_before_shared_ones_and_those_by_the_number_of_leases() -> None:
    candidates = [
        idle("a1", "a", leases=3),
        busy("a2", "a", leases=1),
        idle("b1", "b", leases=1),
        busy("b2", "b"),
        idle("b3", "b"),
    ]
    assert names(candidates, 5) == ["b3", "b2", "b1", "a2", "a1"]


def test_the_route_is_queue_when_no_free_engine_is_named() -> None:
    assert choose([], 3).route == ROUTE_QUEUE
    assert choose([idle("a1", "a", leases=1), busy("a2", "a")], 3).route == ROUTE_QUEUE
    assert choose([idle("a1", "a")], 0).route == ROUTE_QUEUE
    assert choose([idle("a1", "a"), busy("a2", "a")], 1).route == ROUTE_ENGINE


def test_the_answer_does_not_depend_on_the_order_of_the_question() -> None:
    candidates = [idle("a1", "a"), idle("b1", "b", leases=2), busy("c1", "c"), idle("c2", "c")]
    assert choose(candidates, 4) == choose(list(reversed(candidates)), 4)
