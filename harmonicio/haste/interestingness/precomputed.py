"""A score that somebody else has computed and sent along as metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harmonicio.haste.interestingness.base import Features, InterestingnessFunction
from harmonicio.haste.options import check_options, text_option


def precomputed(key: str = "score") -> InterestingnessFunction:
    """Return a function that takes the score from the metadata under ``key``."""

    def function(features: Features, metadata: Mapping[str, Any]) -> float:
        score: float = metadata[key]  # Whether it is one is checked by whoever asks, as for every function.
        return score

    return function


def create(options: Mapping[str, Any]) -> InterestingnessFunction:
    """Options: ``key``."""
    what = "The interestingness function 'precomputed'"
    check_options(what, options, ("key",))
    return precomputed(text_option(what, options, "key", "score"))
