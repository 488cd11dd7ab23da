"""One feature as the score, scaled linearly from its own range to [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harmonicio.core.errors import ConfigurationError
from harmonicio.haste.interestingness.base import Features, InterestingnessFunction
from harmonicio.haste.options import check_options, number_option, text_option


def single_feature(feature: str, *, lowest: float = 0.0, highest: float = 1.0) -> InterestingnessFunction:
    """Return a function whose score is 0 at ``lowest`` or below, 1 at ``highest`` or above, and linear between.

    ``lowest`` may be the larger one: then small values are interesting.
    """
    if lowest == highest:
        raise ConfigurationError(f"The range of {feature!r} is empty: {lowest} to {highest}.")

    def function(features: Features, metadata: Mapping[str, Any]) -> float:
        scaled = (features[feature] - lowest) / (highest - lowest)
        # Comparisons with NaN are false: it stays NaN and the message is unscored.
        return 0.0 if scaled < 0 else 1.0 if scaled > 1 else scaled

    return function


def create(options: Mapping[str, Any]) -> InterestingnessFunction:
    """Options: ``feature``, ``lowest``, ``highest``."""
    what = "The interestingness function 'feature'"
    check_options(what, options, ("feature", "lowest", "highest"))
    return single_feature(
        text_option(what, options, "feature"),
        lowest=number_option(what, options, "lowest", 0.0),
        highest=number_option(what, options, "highest", 1.0),
    )
