"""Rows as JSON, to be kept, and as a Markdown table, to be read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from micro.row import Row
from micro.sizes import size_text

_HEADINGS = ("what", "size", "engines", "transport", "ours", "limit", "ratio", "quartiles", "line", "reached", "more")
_REACHED = {True: "yes", False: "no", None: ""}
#: Digits that are kept: no figure is more exact.
_DIGITS = 4


def as_json(bench: str, machine: Mapping[str, object], rows: Iterable[Row]) -> str:
    """Return a document with the machine's facts and the rows."""
    content = {"bench": bench, "machine": machine, "rows": [_short(asdict(row)) for row in rows]}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _short(value: Any) -> Any:
    """Return a value with floats shortened, however deep inside."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _short(each) for key, each in value.items()}
    return value


def as_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table of the rows."""
    lines = [_line(_HEADINGS), _line("---" for _ in _HEADINGS), *(_line(cells(row)) for row in rows)]
    return "\n".join(lines) + "\n"


def cells(row: Row) -> tuple[str, ...]:
    """Return what a table says of a row, by column."""
    if row.missing:
        return (row.what, "", "", row.transport, f"missing: {row.missing}", *("" for _ in _HEADINGS[5:]))
    return (
        row.what,
        size_text(row.size_bytes),
        str(row.engines),
        row.transport,
        f"{figure(row.ours.median)} {row.unit}",
        f"{figure(row.limit.median)} ({row.limit_name})",
        f"{row.ratio.median:.2f}",
        f"{row.ratio.low_quartile:.2f}–{row.ratio.high_quartile:.2f}",
        _goal(row),
        _REACHED[row.is_reached],
        ", ".join(f"{name} {figure(value)}" for name, value in row.more.items()),
    )


def figure(value: float) -> str:
    """Return a figure with three digits, and commas between thousands."""
    if abs(value) >= 1000:
        return f"{round(value, 2 - len(str(int(abs(value)))) + 1):,.0f}"
    return f"{value:.3g}"


def _goal(row: Row) -> str:
    if row.at_least is not None:
        return f"≥ {row.at_least:g}"
    return "" if row.at_most is None else f"≤ {row.at_most:g}"


def _line(columns: Iterable[str]) -> str:
    return f"| {' | '.join(columns)} |"
