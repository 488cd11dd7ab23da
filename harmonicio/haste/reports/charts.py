"""The charts of a report as SVG text: stacked histograms with edges, and a curve made of points.

Pure: numbers in, markup out. Each bar and point names itself when a pointer rests on it, and each chart says in words
what it shows, for those who do not see it.

    ┌──────────────────────────────┐
    │      D    ┊   C    ┊  B ┊ A  │  names of the parts between the edges
    │           ┊  ▄█▄   ┊    ┊    │
    │     ▁▂    ┊ ▄███▄  ┊ ▂▄ ┊ ▂  │
    └──────────────────────────────┘
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from harmonicio.haste.reports.markup import Child, Markup, element

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 30, 42
MIN_BINS, MAX_BINS = 8, 40


@dataclass(frozen=True, slots=True)
class Group:
    """Values of one kind (a tier), with the colour that stands for it."""

    name: str
    colour: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis from ``low`` to ``high`` in data units, drawn from ``start`` to ``end`` in pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Return about ``count`` round values on the axis."""
        step = _round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(number * step, 12) for number in range(first, last + 1)]


def histogram(
    groups: Sequence[Group],
    label: str,
    *,
    bounds: tuple[float, float] | None = None,
    edges: Sequence[float] = (),
    parts: Sequence[str] = (),
) -> Markup:
    """Draw how the values are spread, one colour per group, stacked.

    Args:
        groups: Drawn from the bottom up; not all of them empty.
        label: What the values are; written below the axis.
        bounds: Range of the axis; that of the values when left out.
        edges: Where vertical lines stand, rising.
        parts: Names of the ranges between the edges, one more than edges; may be left out.
    """
    values = [value for group in groups for value in group.values]
    low, high = bounds or _bounds(values)
    horizontal = Axis(low, high, LEFT, WIDTH - RIGHT)
    bins = _bin_edges(low, high, len(values))
    counts = [_counts(group.values, bins) for group in groups]
    highest = max(map(sum, zip(*counts, strict=True)))
    vertical = Axis(0, highest * 1.05, HEIGHT - BOTTOM, TOP)
    said = f"Histogram of {label}: {len(values)} values from {min(values):.4g} to {max(values):.4g}."
    return _chart(
        said,
        _grid(vertical, is_counting=True),
        _bars(groups, counts, bins, horizontal, vertical),
        _edges(edges, parts, horizontal),
        _bottom_axis(horizontal, label),
        _vertical_label("messages"),
    )


def curve(
    points_by_group: Sequence[tuple[Group, Sequence[float]]],
    label: str,
    *,
    horizontal_edges: Sequence[float] = (),
) -> Markup:
    """Draw scores over a feature: the interestingness function, as it was applied.

    Args:
        points_by_group: Groups whose values are the feature, each with the scores of these values.
        label: What the feature is.
        horizontal_edges: Scores at which horizontal lines stand.
    """
    values = [value for group, _ in points_by_group for value in group.values]
    low, high = _bounds(values)
    horizontal, vertical = Axis(low, high, LEFT, WIDTH - RIGHT), Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    lines = [
        _line(LEFT, vertical.at(edge), WIDTH - RIGHT, vertical.at(edge), "edge", _edge_title(edge))
        for edge in horizontal_edges
    ]
    dots = [dot for group, scores in points_by_group for dot in _dots(group, scores, horizontal, vertical)]
    said = f"Score over {label}: {len(values)} messages."
    return _chart(said, _grid(vertical), lines, dots, _bottom_axis(horizontal, label), _vertical_label("score"))


# ── parts of a chart ─────────────────────────────────────────────────────────────────────────────────────────────────


def _chart(said: str, *parts: Child) -> Markup:
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=said, class_="chart")


def _bars(
    groups: Sequence[Group], counts: Sequence[Sequence[int]], bins: Sequence[float], horizontal: Axis, vertical: Axis
) -> Iterable[Markup]:
    floor = [0] * (len(bins) - 1)
    for group, row in zip(groups, counts, strict=True):
        for at, count in enumerate(row):
            if not count:
                continue
            left, right = horizontal.at(bins[at]), horizontal.at(bins[at + 1])
            top, base = vertical.at(floor[at] + count), vertical.at(floor[at])
            title = element("title", f"{group.name}: {count} from {bins[at]:.4g} to {bins[at + 1]:.4g}")
            width = max(right - left - 1, 0.5)
            yield element("rect", title, x=left + 0.5, y=top, width=width, height=base - top, fill=group.colour)
            floor[at] += count


def _dots(group: Group, scores: Sequence[float], horizontal: Axis, vertical: Axis) -> Iterable[Markup]:
    """Draw one dot per pixel that is hit, so that a hundred thousand messages make no larger page than a thousand."""
    hit = {(round(horizontal.at(x)), round(vertical.at(y))) for x, y in zip(group.values, scores, strict=True)}
    for x, y in sorted(hit):
        yield element("circle", cx=x, cy=y, r=2.6, fill=group.colour, fill_opacity=0.75)


def _edges(edges: Sequence[float], parts: Sequence[str], axis: Axis) -> Iterable[Markup]:
    inside = [edge for edge in edges if axis.low < edge < axis.high]
    for edge in inside:
        yield _line(axis.at(edge), TOP - 6, axis.at(edge), HEIGHT - BOTTOM, "edge", _edge_title(edge))
    if len(parts) != len(edges) + 1:
        return
    bounds = [max(axis.low, min(axis.high, edge)) for edge in (axis.low, *edges, axis.high)]
    for (low, high), part in zip(pairwise(bounds), parts, strict=True):
        width = axis.at(high) - axis.at(low)
        if width > 7 * len(part):
            yield _words((axis.at(low) + axis.at(high)) / 2, TOP - 12, part, "part", "middle")


def _edge_title(edge: float) -> Markup:
    return element("title", f"edge at {edge:.4g}")


def _grid(axis: Axis, *, is_counting: bool = False) -> Iterable[Markup]:
    for tick in axis.ticks(4):
        if is_counting and tick != int(tick):
            continue
        yield _line(LEFT, axis.at(tick), WIDTH - RIGHT, axis.at(tick), "grid")
        yield _words(LEFT - 7, axis.at(tick) + 4, f"{tick:,.10g}", "tick", "end")


def _bottom_axis(axis: Axis, label: str) -> Iterable[Markup]:
    base = HEIGHT - BOTTOM
    yield _line(axis.start, base, axis.end, base, "axis")
    for tick in axis.ticks(6):
        yield _line(axis.at(tick), base, axis.at(tick), base + 4, "axis")
        yield _words(axis.at(tick), base + 17, f"{tick:.10g}", "tick", "middle")
    yield _words((axis.start + axis.end) / 2, HEIGHT - 6, label, "label", "middle")


def _vertical_label(text: str) -> Markup:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return element(
        "text", text, x=12, y=middle, class_="label", text_anchor="middle", transform=f"rotate(-90 12 {middle:g})"
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str, *children: str) -> Markup:
    return element("line", *children, x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _words(x: float, y: float, text: str, kind: str, anchor: str) -> Markup:
    return element("text", text, x=x, y=y, class_=kind, text_anchor=anchor)


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """Return a range that holds all values, a little wider, and never empty."""
    low, high = min(values), max(values)
    margin = (high - low) * 0.04 or abs(high) * 0.05 or 0.5
    return low - margin, high + margin


def _bin_edges(low: float, high: float, count: int) -> list[float]:
    """Return edges of equal bins, about the square root of the values' count of them, an even number."""
    bins = min(MAX_BINS, max(MIN_BINS, 2 * round(math.sqrt(count))))
    bins -= bins % 4
    return [low + (high - low) * at / bins for at in range(bins)] + [high]


def _counts(values: Iterable[float], bins: Sequence[float]) -> list[int]:
    """Count values per bin; a bin holds its lower edge, the last one both."""
    counts = [0] * (len(bins) - 1)
    for value in values:
        counts[min(max(bisect_right(bins, value) - 1, 0), len(counts) - 1)] += 1
    return counts


def _round_step(rough: float) -> float:
    """Return the nearest of 1, 2, 2.5 and 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((factor * power for factor in (1, 2, 2.5, 5) if factor * power >= rough * 0.999), 10 * power)
