"""Proposes the logistic function and the tier edges from a sample of images taken before the experiment.

The values of a feature depend on the instrument, so the paper's k and x0 fit only its own images. From a sample:

    x0 = median                              half of the sample scores above 0.5
    k  = 2 ln(9) / (p90 - p10)               the middle 80 % of the sample spread over the scores 0.1 to 0.9, for a
                                             sample that is symmetric about its median: f(x0 +- ln(9) / k) = 0.5 +- 0.4
    edges = quantiles of the scores          each tier gets about the same share of the sample
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harmonicio.core.errors import InvalidInput
from harmonicio.haste.interestingness.logistic import logistic

MIN_SAMPLE = 4


@dataclass(frozen=True, slots=True)
class Calibration:
    """A proposal.

    Attributes:
        k, x0: Parameters of the logistic function.
        edges: Inner edges between the tiers, rising, in (0, 1).
        shares: Fraction of the sample that falls into each tier, lowest tier first; one more than edges.
    """

    k: float
    x0: float
    edges: tuple[float, ...]
    shares: tuple[float, ...]

    def intervals(self, tiers: Sequence[str]) -> list[list[float | str]]:
        """Return the intervals of an interval policy; ``tiers`` from the least to the most interesting."""
        bounds = (0.0, *self.edges, 1.0)
        return [[lower, upper, tier] for (lower, upper), tier in zip(pairwise(bounds), tiers, strict=True)]


def calibrate(values: Sequence[float], tiers: int = 4) -> Calibration:
    """Propose parameters from the values of one feature.

    Args:
        values: The feature's values over the sample; NaN and infinities are left out.
        tiers: Number of tiers.

    Raises:
        InvalidInput: fewer than four values are left, or they are all the same.
    """
    sample = np.asarray([value for value in values if math.isfinite(value)])
    if len(sample) < MIN_SAMPLE or sample.min() == sample.max():
        raise InvalidInput(
            f"{len(sample)} values cannot calibrate anything.", hint=f"Give at least {MIN_SAMPLE} that differ."
        )
    low, x0, high = (float(quantile) for quantile in np.quantile(sample, [0.1, 0.5, 0.9]))
    spread = high - low or float(sample.max() - sample.min())
    k = 2 * math.log(9) / spread
    scores = np.sort([logistic(float(value), k, x0) for value in sample])
    edges = _edges(scores, tiers)
    counts = np.histogram(scores, bins=[0.0, *edges, 1.0])[0]
    return Calibration(k, x0, edges, tuple(float(count) / len(sample) for count in counts))


def _edges(scores: np.ndarray[tuple[int], np.dtype[np.float64]], tiers: int) -> tuple[float, ...]:
    """Return rising inner edges at the quantiles of the scores; equal parts where the scores tie."""
    inner = [round(float(edge), 4) for edge in np.quantile(scores, np.arange(1, tiers) / tiers)]
    bounds = [0.0, *inner, 1.0]
    if all(lower < upper for lower, upper in pairwise(bounds)):
        return tuple(inner)
    return tuple(number / tiers for number in range(1, tiers))
