"""Interleaved pairs: one run of ours and one of the limit, in turn, so that what else the machine does meets both.

    pair 0   limit ours      pair 1   ours limit      pair 2   limit ours …

A ratio is made within a pair. What is told is the median over the pairs, and the quartiles.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Ours = TypeVar("Ours")
Limit = TypeVar("Limit")


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure is spread over the pairs."""

    median: float
    low_quartile: float
    high_quartile: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of at least one value."""
        ordered = sorted(values)
        if len(ordered) == 1:
            return cls(ordered[0], ordered[0], ordered[0])
        low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(median, low, high)


def interleaved(pairs: int, ours: Callable[[], Ours], limit: Callable[[], Limit]) -> list[tuple[Ours, Limit]]:
    """Run both in turn, and begin with the other one in each pair."""
    results = []
    for number in range(pairs):
        if number % 2:
            mine = ours()
            results.append((mine, limit()))
        else:
            bare = limit()
            results.append((ours(), bare))
    return results


def ratios(pairs: Sequence[tuple[float, float]]) -> Spread:
    """Return how ours divided by the limit is spread; nothing beside a limit of 0 is told as 0."""
    return Spread.of(ours / limit if limit else 0.0 for ours, limit in pairs)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
