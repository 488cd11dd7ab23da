"""The CSV files of a report: every feature row, and the tier table.

    rows.csv     one line per message: what is known of it, ``feature.<name>`` and ``metadata.<name>`` columns
    tiers.csv    one line per stream and tier: messages, bytes, MB, share

Text that a spreadsheet would run as a formula gets an apostrophe in front, as spreadsheets themselves write it.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harmonicio.haste.feature_db.base import FeatureRow
from harmonicio.haste.reports.summary import MB, TierLine

#: Fields with columns of their own kind; all others are written as they stand.
_UNFOLDED = ("features", "metadata", "processed_at")
_PLAIN = tuple(item.name for item in dataclasses.fields(FeatureRow) if item.name not in _UNFOLDED)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_rows(file: Path, rows: Sequence[FeatureRow]) -> None:
    """Write one line per row, in the order given."""
    features = sorted({name for row in rows for name in row.features})
    metadata = sorted({name for row in rows for name in row.metadata})
    unfolded = [*(f"feature.{name}" for name in features), *(f"metadata.{name}" for name in metadata)]
    header = [*_PLAIN, "processed_at", *unfolded]
    lines = (
        [getattr(row, name) for name in _PLAIN]
        + [datetime.fromtimestamp(row.processed_at, UTC).isoformat()]
        + [row.features.get(name) for name in features]
        + [row.metadata.get(name) for name in metadata]
        for row in rows
    )
    _write(file, header, lines)


def write_tiers(file: Path, lines_by_stream: Mapping[str, Sequence[TierLine]]) -> None:
    """Write the tier table of each stream."""
    header = ("stream", "tier", "messages", "size_bytes", "size_mb", "share")
    lines = (
        [stream, line.tier, line.messages, line.size_bytes, line.size_bytes / MB, line.messages / (total or 1)]
        for stream, tier_lines in lines_by_stream.items()
        for total in [sum(line.messages for line in tier_lines)]
        for line in tier_lines
    )
    _write(file, header, lines)


def _write(file: Path, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    with file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow([_cell(name) for name in header])
        writer.writerows([_cell(value) for value in line] for line in lines)


def _cell(value: Any) -> str | int | float:
    if value is None:
        return ""
    if isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=repr)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
