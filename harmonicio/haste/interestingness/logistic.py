"""The logistic function of one feature, as in case study 1 of the HASTE paper: 1 / (1 + exp(-k (x - x0)))."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from harmonicio.core.errors import ConfigurationError
from harmonicio.haste.interestingness.base import Features, InterestingnessFunction
from harmonicio.haste.options import check_options, number_option, shown, text_option

#: ``haste-case-study-1``: the paper's choice for its images of cortical neurons.
PRESETS: dict[str, dict[str, Any]] = {
    "haste-case-study-1": {"feature": "power_log_log_slope", "k": 4.5, "x0": -1.4},
}


def logistic(x: float, k: float, x0: float) -> float:
    """Return 1 / (1 + exp(-k (x - x0))) without overflow; NaN for NaN."""
    # A difference that overflows is still larger or smaller; times a k of 0 it would be NaN.
    exponent = k * (x - x0) if k or math.isnan(x) else 0.0
    if exponent >= 0:
        return 1.0 / (1.0 + math.exp(-exponent))
    grown = math.exp(exponent)
    return grown / (1.0 + grown)


def logistic_of(feature: str, k: float, x0: float) -> InterestingnessFunction:
    """Return the interestingness function of one feature; ``x0`` scores 0.5, ``k`` says how steep it is there."""

    def function(features: Features, metadata: Mapping[str, Any]) -> float:
        return logistic(features[feature], k, x0)

    return function


def create(options: Mapping[str, Any]) -> InterestingnessFunction:
    """Options: ``feature``, ``k`` and ``x0``, or ``preset`` for what is not given."""
    what = "The interestingness function 'logistic'"
    check_options(what, options, ("preset", "feature", "k", "x0"))
    given = dict(options)
    preset = given.pop("preset", None)
    if preset is not None and preset not in tuple(PRESETS):
        raise ConfigurationError(f"There is no preset {shown(preset)}.", hint=f"Known are {', '.join(PRESETS)}.")
    values = {**PRESETS.get(preset or "", {}), **given}
    feature = text_option(what, values, "feature")
    return logistic_of(feature, number_option(what, values, "k"), number_option(what, values, "x0"))
