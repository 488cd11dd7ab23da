"""Feature rows in memory: for tests, and for trying things out."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harmonicio.core.errors import StorageError
from harmonicio.haste.feature_db.base import (
    Answer,
    FeatureDatabase,
    FeatureRow,
    RowFilter,
    canonical_or_error,
)
from harmonicio.haste.options import check_options, count_option

MAX_ROWS = 1_000_000


class MemoryFeatureDatabase(FeatureDatabase):
    """Keeps rows for as long as it lives."""

    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        self._max_rows = max_rows
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], FeatureRow] = {}

    def __repr__(self) -> str:
        return f"<MemoryFeatureDatabase of {len(self._rows)} rows>"

    def commit_many(self, rows: Sequence[FeatureRow]) -> list[Answer]:
        given = [canonical_or_error(row) for row in rows]
        with self._lock:
            if len(self._rows) + len(given) > self._max_rows:
                raise StorageError(f"The feature database has {len(self._rows)} rows and takes no more.")
            return [self._commit(row) if isinstance(row, FeatureRow) else row for row in given]

    def _commit(self, row: FeatureRow) -> FeatureRow:
        return self._rows.setdefault((row.stream, row.message_id), row)

    def rows(self, wanted: RowFilter) -> Iterator[FeatureRow]:
        with self._lock:
            kept = list(self._rows.values())
        return (row for row in kept if wanted.matches(row))

    def count(self, wanted: RowFilter) -> int:
        return sum(1 for _ in self.rows(wanted))

    def close(self) -> None:
        """Nothing is held."""


def create(options: Mapping[str, Any], client: Any) -> MemoryFeatureDatabase:
    """Options: ``max_rows``."""
    return MemoryFeatureDatabase(max_rows_of(options))


def max_rows_of(options: Mapping[str, Any]) -> int:
    """Return how many rows the options allow."""
    what = "The feature database 'memory'"
    check_options(what, options, ("max_rows",))
    return count_option(what, options, "max_rows", MAX_ROWS)
