"""What HASTE adds to the master: engines bring feature rows here, and people read them.

The master is the single writer of its SQLite file, ``features.sqlite`` in its data folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harmonicio.control import paths
from harmonicio.control.extension import ExtensionRoute
from harmonicio.core.errors import Conflict, InvalidInput
from harmonicio.core.roles import Role
from harmonicio.haste.feature_db.base import RowFilter, as_plain, from_plain
from harmonicio.haste.feature_db.sqlite import SqliteFeatureDatabase

FILE_NAME = "features.sqlite"
MAX_ROWS = 1_000
PAGE_ROWS = 500
_FILTERS = ("tier", "min_score", "max_score", "after")


class HasteExtension:
    """Serves one feature database."""

    def __init__(self, database: SqliteFeatureDatabase) -> None:
        self._database = database
        self.routes = (
            ExtensionRoute(paths.STREAM_FEATURE_ROWS, "POST", frozenset({Role.ENGINE}), self._commit),
            ExtensionRoute(paths.STREAM_FEATURE_ROWS, "GET", frozenset({Role.VIEWER, Role.SOURCE}), self._read),
        )

    def __repr__(self) -> str:
        return f"<HasteExtension of {self._database!r}>"

    def close(self) -> None:
        self._database.close()

    def _commit(self, names: Mapping[str, str], body: Any, query: Mapping[str, str]) -> Any:
        """Commit feature rows; the first row of a message wins."""
        if not isinstance(body, list) or len(body) > MAX_ROWS:
            raise InvalidInput(f"Feature rows come as a list of at most {MAX_ROWS}.")
        rows = [from_plain(each) for each in body]
        if any(row.stream != names["stream"] for row in rows):
            raise InvalidInput(f"A row is not of stream {names['stream']!r}.")
        verdicts = self._database.commit_many(rows)
        return {"rows": [_verdict(each) for each in verdicts]}

    def _read(self, names: Mapping[str, str], body: Any, query: Mapping[str, str]) -> Any:
        """Return feature rows in the order of their commit, a page at a time; ``next`` goes into ``after``."""
        unknown = [key for key in query if key not in _FILTERS]
        if unknown:
            raise InvalidInput(f"There is no filter {unknown[0]!r:.60}.", hint=f"Known are {', '.join(_FILTERS)}.")
        wanted = RowFilter(names["stream"], query.get("tier"), _number(query, "min_score"), _number(query, "max_score"))
        rows, last = self._database.page(wanted, int(_number(query, "after") or 0), PAGE_ROWS)
        return {"rows": [as_plain(row) for row in rows], "next": last}


def create(data_folder: Path) -> HasteExtension:
    """Open the feature database of a master."""
    return HasteExtension(SqliteFeatureDatabase(data_folder / FILE_NAME))


def _verdict(verdict: Any) -> dict[str, Any]:
    if isinstance(verdict, Conflict):
        return {"conflict": verdict.text}
    return {"row": as_plain(verdict.row), "is_first": verdict.is_first}


def _number(query: Mapping[str, str], key: str) -> float | None:
    if query.get(key) is None:
        return None
    try:
        return float(query[key])
    except ValueError:
        raise InvalidInput(f"The filter {key!r} is not a number.") from None
