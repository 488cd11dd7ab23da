"""Interestingness functions and policies, as a declaration names them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harmonicio.core.errors import ConfigurationError
from harmonicio.haste.calibration import calibrate
from harmonicio.haste.interestingness.base import create_function
from harmonicio.haste.interestingness.logistic import logistic
from harmonicio.haste.policies.base import create_policy

PAPER = [[0, 0.25, "D"], [0.25, 0.5, "C"], [0.5, 0.75, "B"], [0.75, 1, "A"]]


@pytest.mark.parametrize(
    ("score", "tier"),
    [(0.0, "D"), (0.2499, "D"), (0.25, "C"), (0.5, "B"), (0.7499, "B"), (0.75, "A"), (1.0, "A")],
)
def test_an_interval_holds_its_lower_edge_and_the_last_one_both(score: float, tier: str) -> None:
    assert create_policy({"intervals": PAPER}, "ABCD").tier_for(score) == tier


@pytest.mark.parametrize(
    ("intervals", "complaint"),
    [
        ([[0, 0.4, "A"], [0.5, 1, "B"]], "No interval holds"),
        ([[0, 0.6, "A"], [0.5, 1, "B"]], "overlaps"),
        ([[0, 0.5, "A"], [0.5, 0.9, "B"]], "end at 0.9"),
        ([[0.1, 1, "A"]], "No interval holds"),
        ([[-0.1, 1, "A"]], "below 0"),
        ([[0, 0, "A"], [0, 1, "B"]], "empty"),
        ([[0.5, 0, "A"]], "reversed"),
        ([[0, 1, "Z"]], "not declared"),
        ([[0, math.nan, "A"]], "empty or reversed"),
        ([[0, 1]], "not an interval"),
        ([[0, True, "A"]], "not an interval"),
        ([[0, 10**400, "A"]], "not an interval"),
        ([[0, 10**5000, "A"]], "not an interval"),
        ([[0, math.inf, "A"]], "not an interval"),
        ([], "end at 0"),
        ("A", "needs 'intervals'"),
    ],
)
def test_a_policy_that_leaves_a_score_in_doubt_is_refused(intervals: object, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        create_policy({"intervals": intervals}, "AB")


@pytest.mark.parametrize("score", [-0.01, 1.01, math.nan, math.inf])
def test_a_policy_has_no_tier_for_what_is_no_score(score: float) -> None:
    with pytest.raises(ValueError, match="not in"):
        create_policy({"intervals": PAPER}, "ABCD").tier_for(score)


def test_the_papers_preset_scores_its_midpoint_with_one_half() -> None:
    function = create_function({"name": "logistic", "preset": "haste-case-study-1"})
    assert function({"power_log_log_slope": -1.4}, {}) == 0.5
    assert function({"power_log_log_slope": -1.0}, {}) == pytest.approx(1 / (1 + math.exp(-4.5 * 0.4)))


def test_a_preset_can_be_adjusted() -> None:
    function = create_function({"name": "logistic", "preset": "haste-case-study-1", "x0": -2})
    assert function({"power_log_log_slope": -2.0}, {}) == 0.5


@pytest.mark.parametrize("x", [-1e308, -1e4, 1e4, 1e308])
def test_the_logistic_function_does_not_overflow(x: float) -> None:
    assert logistic(x, 4.5, -1.4) in (0.0, 1.0)


def test_a_single_feature_is_scaled_to_scores() -> None:
    function = create_function({"name": "feature", "feature": "mean", "lowest": 100, "highest": 300})
    assert [function({"mean": value}, {}) for value in (0, 100, 250, 400)] == [0, 0, 0.75, 1]
    assert math.isnan(function({"mean": math.nan}, {}))


def test_a_precomputed_score_comes_with_the_message() -> None:
    assert create_function({"name": "precomputed"})({}, {"score": 0.7}) == 0.7


def test_a_function_of_the_users_own_is_loaded_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def score(features, metadata):\n    return features['x'] / 10\n")
    assert create_function({"name": f"{path}:score"})({"x": 5}, {}) == 0.5


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "no interestingness function"),
        ({"name": "best"}, "Known are"),
        ({"name": "logistic", "k": 1, "x0": 0}, "needs the option 'feature'"),
        ({"name": "logistic", "preset": "paper"}, "no preset"),
        ({"name": "logistic", "preset": "haste-case-study-1", "slope": 3}, "no option 'slope'"),
        ({"name": "logistic", "preset": ["paper"]}, "no preset"),
        ({"name": "logistic", "feature": "x", "k": "steep", "x0": 0}, "'steep' as 'k'"),
        ({"name": "logistic", "feature": "x", "k": 1, "x0": math.nan}, "nan as 'x0'"),
        ({"name": "logistic", "feature": 5, "k": 1, "x0": 0}, "5 as 'feature'"),
        ({"name": "feature", "feature": "x", "lowest": 1, "highest": 1}, "is empty"),
        ({"name": "feature", "feature": "x", "highest": 10**400}, "as 'highest'"),
        ({"name": "feature"}, "needs the option 'feature'"),
        ({"name": "precomputed", "key": ["score"]}, "as 'key'"),
        ({"name": "/absent/mine.py:score"}, "cannot be loaded"),
        ({"name": "math:nothing"}, "cannot be loaded"),
    ],
)
def test_a_function_that_cannot_be_made_is_refused(options: dict, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        create_function(options)


def test_calibration_spreads_the_sample_over_scores_and_tiers() -> None:
    sample = [-2.5 + 0.01 * number for number in range(100)]
    found = calibrate(sample, tiers=4)
    assert found.x0 == pytest.approx(-2.005)
    scores = [logistic(value, found.k, found.x0) for value in sample]
    assert scores[10] == pytest.approx(0.1, abs=0.01)
    assert scores[89] == pytest.approx(0.9, abs=0.01)
    assert found.shares == pytest.approx((0.25, 0.25, 0.25, 0.25), abs=0.02)
    create_policy({"intervals": found.intervals(["D", "C", "B", "A"])}, "ABCD")


def test_calibration_refuses_a_sample_that_says_nothing() -> None:
    with pytest.raises(ValueError, match="cannot calibrate"):
        calibrate([1.0, 1.0, 1.0, math.nan])
