"""What a report says in numbers: sizes of tiers, reasons, throughput, and where edges of scores lie on a feature.

Pure: feature rows in, records out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from harmonicio.haste.feature_db.base import FeatureRow

Item = TypeVar("Item")

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """How one stream is sorted, as far as a report draws it.

    Attributes:
        stream: Name of the stream.
        feature: The feature whose histogram is drawn.
        intervals: ``(lower, upper, tier)`` of the interval policy, rising; empty under another policy.
        function: The interestingness function in words.
    """

    stream: str
    feature: str
    intervals: tuple[tuple[float, float, str], ...] = ()
    function: str = ""

    @property
    def edges(self) -> tuple[float, ...]:
        """Return the inner edges between the tiers, in scores."""
        return tuple(upper for _, upper, _ in self.intervals[:-1])

    def tiers(self, rows: Iterable[FeatureRow]) -> tuple[str, ...]:
        """Return the tiers from the most to the least interesting, then those that no interval names."""
        ranked = tuple(dict.fromkeys(tier for _, _, tier in reversed(self.intervals)))
        return ranked + tuple(sorted({row.tier for row in rows} - set(ranked)))


@dataclass(frozen=True, slots=True)
class Traffic:
    """How the messages travelled.

    Attributes:
        peer_to_peer, backlog: Messages that came straight from a connector, and those that waited at the master.
        duration_s: From the first message sent to the last one processed; ``None`` where nobody measured it.
    """

    peer_to_peer: int
    backlog: int
    duration_s: float | None = None

    @classmethod
    def of(cls, rows: Iterable[FeatureRow]) -> Traffic:
        """Return what the rows say of their routes; those that do not say are not counted."""
        routes = Counter(row.route for row in rows)
        return cls(peer_to_peer=routes["engine"], backlog=routes["backlog"])


@dataclass(frozen=True, slots=True)
class TierLine:
    """One line of the tier table (the paper's Table 2)."""

    tier: str
    messages: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """Means over ``duration_s`` seconds."""

    messages_per_s: float
    mb_per_s: float
    duration_s: float


def tier_lines(rows: Collection[FeatureRow], tiers: Iterable[str]) -> list[TierLine]:
    """Return a line for each of these tiers, those without messages included."""
    messages = Counter(row.tier for row in rows)
    sizes: Counter[str] = Counter()
    for row in rows:
        sizes[row.tier] += row.size_bytes
    return [TierLine(tier, messages[tier], sizes[tier]) for tier in tiers]


def throughput(rows: Collection[FeatureRow], duration_s: float | None = None) -> Throughput | None:
    """Return the mean throughput; ``None`` where it cannot be known.

    Args:
        duration_s: Measured duration; without it, the time from the first to the last row stands in, and the first
            message, whose beginning nobody knows, is not counted.
    """
    count, size_bytes = len(rows), sum(row.size_bytes for row in rows)
    if duration_s is None and rows:
        first, last = (pick(rows, key=lambda row: row.processed_at) for pick in (min, max))
        duration_s = last.processed_at - first.processed_at
        count, size_bytes = count - 1, size_bytes - first.size_bytes
    if not duration_s or count < 1:
        return None
    return Throughput(count / duration_s, size_bytes / MB / duration_s, duration_s)


def reasons(rows: Iterable[FeatureRow]) -> list[tuple[str, list[FeatureRow]]]:
    """Return the unscored rows by their reason, the most frequent reason first."""
    found: dict[str, list[FeatureRow]] = {}
    for row in rows:
        if row.reason:
            found.setdefault(row.reason, []).append(row)
    return sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))


def points(rows: Iterable[FeatureRow], tier: str, feature: str) -> list[tuple[float, float]]:
    """Return ``(feature, score)`` of each message of a tier that has both."""
    found = ((row.features.get(feature), row.score) for row in rows if row.tier == tier)
    return [(value, score) for value, score in found if value is not None and score is not None]


def feature_edges(points: Iterable[tuple[float, float]], edges: Iterable[float]) -> list[float]:
    """Return where scores cross the edges, in units of the feature, by linear interpolation between the messages.

    It asks the messages and not the function, so it fits every function whose score rises or falls with the feature; an
    edge that the scores cross more than once, or never, is left out.

    Args:
        points: ``(feature, score)`` of each message.
        edges: Scores.
    """
    ordered = sorted(points)
    crossings = ([_cross(*pair, edge) for pair in pairwise(ordered) if _is_between(*pair, edge)] for edge in edges)
    return [found[0] for found in crossings if len(found) == 1]


def examples(rows: Iterable[FeatureRow], count: int) -> list[FeatureRow]:
    """Return up to ``count`` rows that stand for all: spread evenly over the scores, the highest first."""
    ordered = sorted(
        rows, key=lambda row: (-math.inf if row.score is None else row.score, row.message_id), reverse=True
    )
    return spread(ordered, count)


def spread(ordered: Sequence[Item], count: int) -> list[Item]:
    """Return up to ``count`` items at even distances, the first and the last included."""
    if len(ordered) <= count:
        return list(ordered)
    return [ordered[round(at * (len(ordered) - 1) / max(count - 1, 1))] for at in range(count)]


def _is_between(one: tuple[float, float], other: tuple[float, float], edge: float) -> bool:
    return (one[1] < edge) != (other[1] < edge)


def _cross(one: tuple[float, float], other: tuple[float, float], edge: float) -> float:
    return one[0] + (edge - one[1]) / (other[1] - one[1]) * (other[0] - one[0])
