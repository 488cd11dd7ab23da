"""What HASTE adds to the master: engines bring feature rows here, people read them, and declarations are checked.

The master is the single writer of its SQLite file, ``features.sqlite`` in its data folder. What several engines bring
at the same time is committed together, so that all of them wait for one fsync. When the file stands still, few wait for
it and the others are refused: they would hold all threads of the web server.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from harmonicio.control import paths
from harmonicio.control.caller import READ_TIMEOUT_S
from harmonicio.control.extension import ExtensionCall, ExtensionRoute
from harmonicio.core.errors import InvalidInput, Unavailable
from harmonicio.core.roles import Role
from harmonicio.haste.feature_db.base import Answer, FeatureRow, RowDamaged, RowFilter, as_plain, from_plain
from harmonicio.haste.feature_db.sqlite import SqliteFeatureDatabase
from harmonicio.haste.group_commit import GroupCommit
from harmonicio.haste.storage_client import StorageClient

FILE_NAME = "features.sqlite"
#: In one request, and in one commit.
MAX_ROWS = 1_000
PAGE_ROWS = 500
#: Requests whose rows wait or are committed at the same time. Each holds a thread of the web server, which has twice as
#: many for requests that are not held.
MAX_COMMITS = 32
#: When to bring rows again for which there was no place; a commit takes milliseconds and frees all of them.
RETRY_AFTER_S = 0.1
#: A request waits for the turn, a connection, the file to open it and the file to write, for so long each at most: who
#: brought it must still be there.
WAIT_S = READ_TIMEOUT_S / 5
#: More rows than SQLite can number.
MAX_NUMBER = 2.0**62
_FILTERS = ("message_id", "tier", "min_score", "max_score", "after")
_METADATA = "metadata."


class HasteExtension:
    """Serves one feature database."""

    def __init__(self, database: SqliteFeatureDatabase) -> None:
        self._database = database
        self._group = GroupCommit(database.commit_many, lambda _: MAX_ROWS, wait_s=WAIT_S)
        self._places = threading.BoundedSemaphore(MAX_COMMITS)
        self.routes = (
            ExtensionRoute(paths.STREAM_FEATURE_ROWS, "POST", frozenset({Role.ENGINE}), self._commit),
            ExtensionRoute(paths.STREAM_FEATURE_ROWS, "GET", frozenset({Role.VIEWER, Role.SOURCE}), self._read),
        )

    def __repr__(self) -> str:
        return f"<HasteExtension of {self._database!r}, {self._group!r}>"

    def close(self) -> None:
        self._database.close()

    def check(self, options: Mapping[str, Any]) -> None:
        """Look at a declaration's table ``plugins.haste``."""
        StorageClient.check(options, default_feature_db="master")

    def recorded(self, options: Mapping[str, Any], stream: str, message_id: str, size_bytes: int) -> Any:
        """Return the result of a message whose row is here. One that has emitted is not done by that: those follow."""
        if options.get("feature_db", {}).get("driver", "master") != "master":
            return None
        for row in self._database.rows(RowFilter(stream, message_id)):
            if row.emitted == 0 and row.size_bytes == size_bytes:
                return row.result
        return None

    def _commit(self, call: ExtensionCall) -> Any:
        """Commit feature rows; the first row of a message wins. Each names the engine that brought it.

        The answer says for each which ``row`` counts, or why there is none: the row is ``invalid``, or the first row of
        its message is ``damaged``.
        """
        if not isinstance(call.body, list) or len(call.body) > MAX_ROWS:
            raise InvalidInput(f"Feature rows come as a list of at most {MAX_ROWS}.")
        with self._place():
            taken = [_row(call, each) for each in call.body]
            answers = iter(self._group.commit([row for row in taken if isinstance(row, FeatureRow)]))
        return {"rows": [_verdict(next(answers) if isinstance(row, FeatureRow) else row) for row in taken]}

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Be one of the few whose rows wait."""
        if not self._places.acquire(blocking=False):
            raise Unavailable(
                f"The feature rows of {MAX_COMMITS} requests wait at the master already.",
                hint="If that lasts, see that the disk of its data folder is well.",
                retry_after_s=RETRY_AFTER_S,
            )
        try:
            yield
        finally:
            self._places.release()

    def _read(self, call: ExtensionCall) -> Any:
        """Return feature rows in the order of their commit, a page at a time: the last ``number`` goes into ``after``.

        Filters: ``message_id``, ``tier``, ``min_score``, ``max_score`` (both included), and ``metadata.<name>``, whose
        value is JSON; what is not JSON is text.
        """
        after = int(min(_number(call.query, "after") or 0, MAX_NUMBER))
        page = self._database.page(_filter(call.names["stream"], call.query), after, PAGE_ROWS)
        return {"rows": [{"number": number, "row": as_plain(row)} for number, row in page]}


def create(data_folder: Path) -> HasteExtension:
    """Open the feature database of a master."""
    return HasteExtension(SqliteFeatureDatabase(data_folder / FILE_NAME, is_alone=True, wait_s=WAIT_S))


def _row(call: ExtensionCall, plain: Any) -> FeatureRow | InvalidInput:
    """Return a row, or why it is none: one that cannot be kept hinders no other."""
    try:
        row = from_plain(plain)
    except InvalidInput as error:
        return error
    if row.stream != call.names["stream"]:
        return InvalidInput(f"The row is not of stream {call.names['stream']!r}.")
    return replace(row, engine=call.engine or row.engine)


def _verdict(answer: Answer) -> dict[str, Any]:
    match answer:
        case FeatureRow():
            return {"row": as_plain(answer)}
        case RowDamaged():
            return {"damaged": str(answer)}
        case InvalidInput():
            return {"invalid": str(answer)}
    raise answer  # The commit has failed, for all rows that were in it.


def _filter(stream: str, query: Mapping[str, str]) -> RowFilter:
    unknown = [key for key in query if key not in _FILTERS and not key.startswith(_METADATA)]
    if unknown:
        raise InvalidInput(
            f"There is no filter {unknown[0]!r:.60}.", hint=f"Known are {', '.join(_FILTERS)} and metadata.<name>."
        )
    return RowFilter(
        stream=stream,
        message_id=query.get("message_id"),
        tier=query.get("tier"),
        min_score=_number(query, "min_score"),
        max_score=_number(query, "max_score"),
        metadata={key[len(_METADATA) :]: _value(text) for key, text in query.items() if key.startswith(_METADATA)},
    )


def _value(text: str) -> str | float | bool | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, (list, dict)):
        raise InvalidInput("Metadata can be filtered by text, numbers, truth values and null.")
    return cast("str | float | bool | None", value)


def _number(query: Mapping[str, str], key: str) -> float | None:
    if query.get(key) is None:
        return None
    try:
        number = float(query[key])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidInput(f"The filter {key!r} is not a number.")
    return number
