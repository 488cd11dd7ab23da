"""From feature to tier: every score has exactly one tier, and more of a feature is never less interesting."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harmonicio.core.errors import ConfigurationError
from harmonicio.haste.calibration import calibrate
from harmonicio.haste.interestingness.logistic import logistic
from harmonicio.haste.policies.interval import IntervalPolicy

SCORES = st.floats(0, 1)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
MODERATE = st.floats(-1e6, 1e6)
INNER_EDGES = st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), max_size=6, unique=True).map(sorted)


def intervals_of(edges: list[float]) -> list[list[float | str]]:
    bounds = [0.0, *edges, 1.0]
    return [[lower, upper, f"T{at}"] for at, (lower, upper) in enumerate(pairwise(bounds))]


def policy_of(edges: list[float]) -> IntervalPolicy:
    return IntervalPolicy(intervals_of(edges), [f"T{at}" for at in range(len(edges) + 1)])


@given(INNER_EDGES, SCORES)
def test_every_score_has_the_one_tier_whose_interval_holds_it(edges: list[float], score: float) -> None:
    holders = [
        tier
        for lower, upper, tier in intervals_of(edges)
        if lower <= score < upper or (score == 1.0 == upper)  # type: ignore[operator]
    ]
    assert [policy_of(edges).tier_for(score)] == holders


@given(INNER_EDGES)
def test_an_edge_belongs_to_the_interval_above_it(edges: list[float]) -> None:
    policy = policy_of(edges)
    assert [policy.tier_for(edge) for edge in edges] == [f"T{at + 1}" for at in range(len(edges))]


@given(INNER_EDGES, SCORES, SCORES)
def test_a_higher_score_never_has_a_lower_tier(edges: list[float], one: float, other: float) -> None:
    lower, higher = sorted((one, other))
    policy = policy_of(edges)
    assert int(policy.tier_for(lower)[1:]) <= int(policy.tier_for(higher)[1:])


@given(INNER_EDGES, st.data())
def test_intervals_that_do_not_cover_all_scores_once_are_refused(edges: list[float], data: st.DataObject) -> None:
    intervals = intervals_of(edges)
    at, side = data.draw(st.integers(0, len(intervals) - 1)), data.draw(st.integers(0, 1))
    moved = data.draw(NUMBERS)
    assume(moved != intervals[at][side])
    intervals[at][side] = moved
    with pytest.raises(ConfigurationError):
        IntervalPolicy(intervals, [str(tier) for _, _, tier in intervals])


@given(NUMBERS, NUMBERS, st.floats(0, 1e300), NUMBERS)
def test_the_logistic_function_never_falls(one: float, other: float, k: float, x0: float) -> None:
    lower, higher = sorted((one, other))
    scores = logistic(lower, k, x0), logistic(higher, k, x0)
    assert 0.0 <= scores[0] <= scores[1] <= 1.0


@given(MODERATE, st.floats(0.001, 1000), MODERATE)
def test_the_logistic_function_is_symmetric_about_its_middle(distance: float, k: float, x0: float) -> None:
    assert logistic(x0, k, x0) == 0.5
    assert logistic(x0 + distance, k, x0) + logistic(x0 - distance, k, x0) == pytest.approx(1.0, abs=1e-6)


@given(st.lists(MODERATE, min_size=4, max_size=60), st.integers(2, 6))
def test_what_calibration_proposes_is_a_policy_that_sorts_its_sample(sample: list[float], tiers: int) -> None:
    assume(max(sample) - min(sample) > 1e-6)
    found = calibrate(sample, tiers=tiers)
    names = [f"T{at}" for at in range(tiers)]
    policy = IntervalPolicy(found.intervals(names), names)
    placed = [policy.tier_for(logistic(value, found.k, found.x0)) for value in sample]
    assert [placed.count(name) / len(sample) for name in names] == pytest.approx(list(found.shares))
    assert sum(found.shares) == pytest.approx(1.0)
