"""A drawing of rows as SVG: one bar a row, as long as its ratio to the limit, with quartiles and the line asked for.

peer to peer 1 MB, 1 engine   ████████████├──┤      0.93
                                          ┆ line
"""

from __future__ import annotations

from collections.abc import Sequence

from harmonicio.haste.reports.markup import Markup, element
from micro.row import Row
from micro.sizes import size_text

WIDTH, NAMES, ROW, TOP = 760, 330, 20, 34
_BAR, _BEHIND, _INK, _LINE = "#3b6ea5", "#c8553d", "#222222", "#888888"
#: Ratios beyond it are cut, so that one of them does not make the others invisible; what is written is the real one.
MOST = 4.0


def as_svg(title: str, rows: Sequence[Row]) -> str:
    """Return a drawing of the rows that were measured."""
    measured = [row for row in rows if not row.missing]
    longest = min(MOST, max([1.2, *(row.ratio.high_quartile for row in measured), *map(_goal, measured)]))
    height = TOP + ROW * len(measured) + 12
    texts: dict[str, str | float] = {"font_family": "sans-serif", "font_size": 11, "fill": _INK}
    return element(
        "svg",
        element("title", title),
        element("text", title, x=8, y=18, **texts | {"font_size": 13}),
        _rule(_at(1.0, longest), TOP - 6, height - 8, _LINE, "3 3"),
        [part for number, row in enumerate(measured) for part in _bar(row, TOP + ROW * number, longest, texts)],
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        width=WIDTH,
        height=height,
    )


def _bar(row: Row, top: float, longest: float, texts: dict[str, str | float]) -> list[Markup]:
    middle = top + ROW / 2
    low, high = (_at(each, longest) for each in (row.ratio.low_quartile, row.ratio.high_quartile))
    parts = [
        element("text", row_name(row), x=NAMES - 8, y=middle + 4, text_anchor="end", **texts),
        element(
            "rect",
            x=NAMES,
            y=top + 3,
            width=max(1.0, _at(row.ratio.median, longest) - NAMES),
            height=ROW - 6,
            fill=_BEHIND if row.is_reached is False else _BAR,
        ),
        element("line", x1=low, x2=high, y1=middle, y2=middle, stroke=_INK, stroke_width=1.5),
        element("text", f"{row.ratio.median:.2f}", x=_at(longest, longest) + 8, y=middle + 4, **texts),
    ]
    if _goal(row):
        parts.append(_rule(_at(_goal(row), longest), top + 1, top + ROW - 1, _INK, "none"))
    return parts


def row_name(row: Row) -> str:
    """Return a row's name in a drawing."""
    engines = f"{row.engines} engine{'' if row.engines == 1 else 's'}"
    return f"{row.what}, {size_text(row.size_bytes)}, {engines}"


def _goal(row: Row) -> float:
    return row.at_least or row.at_most or 0.0


def _at(ratio: float, longest: float) -> float:
    return NAMES + min(ratio, longest) / longest * (WIDTH - NAMES - 60)


def _rule(at: float, top: float, bottom: float, colour: str, dashes: str) -> Markup:
    return element("line", x1=at, x2=at, y1=top, y2=bottom, stroke=colour, stroke_dasharray=dashes)
