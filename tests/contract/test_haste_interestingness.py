"""Every interestingness function keeps the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from harmonicio.testing.interestingness_suite import InterestingnessSuite


class TestSingleFeature(InterestingnessSuite):
    options: ClassVar[Mapping[str, Any]] = {"name": "feature", "feature": "mean", "lowest": 100.0, "highest": 300.0}
    features = ("mean",)


class TestSingleFeatureWhereLittleIsInteresting(InterestingnessSuite):
    options: ClassVar[Mapping[str, Any]] = {"name": "feature", "feature": "mean", "lowest": 1.0, "highest": 0.0}
    features = ("mean",)


class TestLogistic(InterestingnessSuite):
    options: ClassVar[Mapping[str, Any]] = {"name": "logistic", "feature": "sharpness", "k": -2.5, "x0": 12.0}
    features = ("sharpness",)


class TestThePapersPreset(InterestingnessSuite):
    options: ClassVar[Mapping[str, Any]] = {"name": "logistic", "preset": "haste-case-study-1"}
    features = ("power_log_log_slope",)


class TestPrecomputed(InterestingnessSuite):
    options: ClassVar[Mapping[str, Any]] = {"name": "precomputed", "key": "rank"}
    metadata: ClassVar[Mapping[str, Any]] = {"rank": 0.25}
