"""Feature rows in memory: for tests, and for trying things out."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from harmonicio.core.errors import StorageError
from harmonicio.haste.feature_db.base import Committed, FeatureRow, RowFilter, judge
from harmonicio.haste.registry import check_options

MAX_ROWS = 1_000_000


class MemoryFeatureDatabase:
    """Keeps rows for as long as it lives."""

    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        self._max_rows = max_rows
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], FeatureRow] = {}

    def __repr__(self) -> str:
        return f"<MemoryFeatureDatabase of {len(self._rows)} rows>"

    def commit(self, row: FeatureRow) -> Committed:
        with self._lock:
            known = self._rows.get((row.stream, row.message_id))
            if known is not None:
                return judge(row, known)
            if len(self._rows) >= self._max_rows:
                raise StorageError(f"The feature database has {self._max_rows} rows and takes no more.")
            self._rows[row.stream, row.message_id] = row
        return Committed(row, is_first=True)

    def rows(self, wanted: RowFilter) -> Iterator[FeatureRow]:
        with self._lock:
            kept = list(self._rows.values())
        return (row for row in kept if _matches(row, wanted))

    def count(self, wanted: RowFilter) -> int:
        return sum(1 for _ in self.rows(wanted))

    def close(self) -> None:
        """Nothing is held."""


def create(options: Mapping[str, Any], client: Any) -> MemoryFeatureDatabase:
    """Options: ``max_rows``."""
    check_options("The feature database 'memory'", options, ("max_rows",))
    return MemoryFeatureDatabase(**options)


def _matches(row: FeatureRow, wanted: RowFilter) -> bool:
    score = row.score
    return (
        wanted.stream in (None, row.stream)
        and wanted.tier in (None, row.tier)
        and (wanted.min_score is None or (score is not None and score >= wanted.min_score))
        and (wanted.max_score is None or (score is not None and score <= wanted.max_score))
        and all(row.metadata.get(key) == value for key, value in wanted.metadata.items())
    )
