"""Feature rows by way of the master, which is the single writer of its SQLite file.

Rows that several threads bring at the same time travel in one request.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from harmonicio.core.errors import ConfigurationError, Conflict, StorageError, Unavailable
from harmonicio.haste.feature_db.base import Committed, FeatureRow, RowFilter, as_plain, from_plain
from harmonicio.haste.registry import check_options

MAX_ROWS_PER_REQUEST = 200


class RowClient(Protocol):
    """What is asked of the master; :class:`~harmonicio.control.client.MasterClient` does it."""

    def post_feature_rows(self, stream: str, rows: Sequence[Mapping[str, Any]]) -> Any: ...

    def feature_rows(self, stream: str, **filters: str | int | float) -> Any: ...


class _Waiting:
    __slots__ = ("committed", "error", "is_done", "row")

    def __init__(self, row: FeatureRow) -> None:
        self.row = row
        self.is_done = False
        self.committed: Committed | None = None
        self.error: Exception | None = None


class MasterFeatureDatabase:
    """Commits rows at the master."""

    def __init__(self, client: RowClient) -> None:
        self._client = client
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._is_sending = False

    def __repr__(self) -> str:
        return f"<MasterFeatureDatabase at {self._client!r}, {len(self._waiting)} rows waiting>"

    def commit(self, row: FeatureRow) -> Committed:
        mine = _Waiting(row)
        with self._changed:
            self._waiting.append(mine)
            while self._is_sending and not mine.is_done:
                self._changed.wait()
            if not mine.is_done:
                self._is_sending = True
        # Whoever finds nobody sending sends for all that wait.
        while not mine.is_done:
            self._send_some(row.stream)
        if mine.error is not None:
            raise mine.error
        assert mine.committed is not None
        return mine.committed

    def _send_some(self, stream: str) -> None:
        with self._changed:
            batch, self._waiting = self._waiting[:MAX_ROWS_PER_REQUEST], self._waiting[MAX_ROWS_PER_REQUEST:]
        try:
            answer = self._client.post_feature_rows(stream, [as_plain(each.row) for each in batch])
            for each, verdict in zip(batch, answer["rows"], strict=True):
                _take(each, verdict)
        except Unavailable as error:
            _fail(batch, StorageError(f"The feature rows cannot reach the master: {error.text}", hint=error.hint))
        except Exception as error:  # noqa: BLE001  whoever waits for a row gets the error
            _fail(batch, error)
        finally:
            with self._changed:
                for each in batch:
                    each.is_done = True
                self._is_sending = False
                self._changed.notify_all()

    def rows(self, wanted: RowFilter) -> Iterator[FeatureRow]:
        after = 0
        while True:
            filters = {key: value for key, value in _filters(wanted, after).items() if value is not None}
            answer = self._client.feature_rows(wanted.stream or "", **filters)
            yield from map(from_plain, answer["rows"])
            if not answer["rows"]:
                return
            after = answer["next"]

    def count(self, wanted: RowFilter) -> int:
        return sum(1 for _ in self.rows(wanted))

    def close(self) -> None:
        """The client belongs to the engine."""


def create(options: Mapping[str, Any], client: Any) -> MasterFeatureDatabase:
    """No options; needs a client of the master."""
    check_options("The feature database 'master'", options, ())
    if client is None:
        raise ConfigurationError(
            "The feature database 'master' needs a cluster.", hint="Use the driver 'sqlite' with a 'file'."
        )
    return MasterFeatureDatabase(client)


def _filters(wanted: RowFilter, after: int) -> dict[str, Any]:
    if wanted.metadata:
        raise ConfigurationError("Rows at the master cannot be filtered by metadata yet.")
    return {"tier": wanted.tier, "min_score": wanted.min_score, "max_score": wanted.max_score, "after": after}


def _take(waiting: _Waiting, verdict: Mapping[str, Any]) -> None:
    if verdict.get("conflict"):
        waiting.error = Conflict(verdict["conflict"], hint="Give each message an id of its own.")
    else:
        waiting.committed = Committed(from_plain(verdict["row"]), bool(verdict["is_first"]))


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for each in batch:
        each.error = each.error or error
