"""A score that somebody else has computed and sent along as metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harmonicio.haste.interestingness.base import Features, InterestingnessFunction
from harmonicio.haste.registry import check_options


def precomputed(key: str = "score") -> InterestingnessFunction:
    """Return a function that takes the score from the metadata under ``key``."""

    def function(features: Features, metadata: Mapping[str, Any]) -> float:
        return float(metadata[key])

    return function


def create(options: Mapping[str, Any]) -> InterestingnessFunction:
    """Options: ``key``."""
    check_options("The interestingness function 'precomputed'", options, ("key",))
    return precomputed(**options)
