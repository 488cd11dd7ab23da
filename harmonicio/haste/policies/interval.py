"""The interval policy: ranges of scores to tiers, as in Listing 1 of the HASTE paper.

    [[0, 0.25, "D"], [0.25, 0.5, "C"], [0.5, 0.75, "B"], [0.75, 1, "A"]]

The edge rule: an interval holds its lower edge and not its upper one, except the last, which holds 1.0 too. So every
score in [0, 1] belongs to exactly one tier: 0.0 to the first, 0.25 to C, 1.0 to the last.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from harmonicio.core.errors import ConfigurationError
from harmonicio.haste.options import check_options, shown


class IntervalPolicy:
    """Maps ranges of scores to tiers.

    Args:
        intervals: ``(lower, upper, tier)`` each, in rising order, from 0 to 1 without gap or overlap.
        tiers: The tiers that there are.

    Raises:
        ConfigurationError: says which interval is wrong and why.
    """

    def __init__(self, intervals: Sequence[Sequence[Any]], tiers: Collection[str]) -> None:
        self.intervals = tuple(_interval(item) for item in intervals)
        _check(self.intervals, tiers)
        self._lower_edges = [lower for lower, _, _ in self.intervals]

    def __repr__(self) -> str:
        return f"<IntervalPolicy {', '.join(f'{tier} from {lower:g}' for lower, _, tier in self.intervals)}>"

    def tier_for(self, score: float) -> str:
        """Return the tier of a score.

        Raises:
            ValueError: the score is not in [0, 1].
        """
        if not 0.0 <= score <= 1.0:
            raise ValueError(f"the score {score} is not in [0, 1]")
        return self.intervals[bisect_right(self._lower_edges, score) - 1][2]


def create(options: Mapping[str, Any], tiers: Collection[str]) -> IntervalPolicy:
    """Options: ``intervals``."""
    check_options("The interval policy", options, ("intervals",))
    if not isinstance(options.get("intervals"), (list, tuple)):
        raise ConfigurationError(
            "The interval policy needs 'intervals'.", hint='For example [[0, 0.5, "B"], [0.5, 1, "A"]].'
        )
    return IntervalPolicy(options["intervals"], tiers)


def _interval(item: Any) -> tuple[float, float, str]:
    if (
        not isinstance(item, (list, tuple))
        or len(item) != 3
        or not all(_is_edge(edge) for edge in item[:2])
        or not isinstance(item[2], str)
    ):
        raise ConfigurationError(f"{shown(item)} is not an interval.", hint='Write [lower, upper, "tier"].')
    return float(item[0]), float(item[1]), item[2]


def _is_edge(value: object) -> bool:
    """Return whether a value is a number that a float can be."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not abs(value) > sys.float_info.max


def _check(intervals: tuple[tuple[float, float, str], ...], tiers: Collection[str]) -> None:
    expected = 0.0
    for lower, upper, tier in intervals:
        shown = f"The interval from {lower:g} to {upper:g}"
        if not lower < upper:  # Also NaN: comparisons with it are false.
            raise ConfigurationError(f"{shown} is empty or reversed.")
        if lower > expected:
            raise ConfigurationError(f"No interval holds the scores from {expected:g} to {lower:g}.")
        if lower < expected:
            raise ConfigurationError(f"{shown} overlaps the one before, or starts below 0.")
        if tier not in tiers:
            raise ConfigurationError(
                f"{shown} names the tier {tier!r:.60}, which is not declared.",
                hint=f"Declared are {', '.join(sorted(tiers)) or 'none'}.",
            )
        expected = upper
    if expected != 1.0:
        raise ConfigurationError(f"The intervals end at {expected:g}.", hint="They must cover 0 to 1.")
