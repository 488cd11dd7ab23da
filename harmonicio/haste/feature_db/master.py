"""Feature rows by way of the master, which is the single writer of its SQLite file.

Rows that several threads bring at the same time travel in one request, up to a number and a size. A master that has
too many just then is asked again for a moment, because a handler's work would be for nothing; not for longer, because
its slot is held meanwhile.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, takewhile
from typing import Any, Protocol

from harmonicio.control import json_codec
from harmonicio.control.paths import MAX_BODY_BYTES
from harmonicio.core.back_off import delay_s
from harmonicio.core.errors import ConfigurationError, InvalidInput, StorageError, Unavailable
from harmonicio.haste.feature_db.base import (
    Answer,
    FeatureDatabase,
    FeatureRow,
    RowDamaged,
    RowFilter,
    as_plain,
    canonical,
    from_plain,
)
from harmonicio.haste.options import check_options

#: A request is as long as its rows are, up to half of what the master reads; one that is longer by itself goes alone.
MAX_ROWS_PER_REQUEST, MAX_BYTES_PER_REQUEST = 200, MAX_BODY_BYTES // 2
#: For how long a master that is busy is asked again, and the longest pause between.
ASK_AGAIN_FOR_S, LONGEST_PAUSE_S = 3.0, 1.0


class RowClient(Protocol):
    """What is asked of the master; :class:`~harmonicio.control.client.MasterClient` does it."""

    def post_feature_rows(self, stream: str, rows: Sequence[Mapping[str, Any]]) -> Any: ...

    def feature_rows(self, stream: str, **filters: str | int | float) -> Any: ...


class _Waiting:
    """A row on its way, and what became of it."""

    __slots__ = ("answer", "plain", "row", "size_bytes")

    def __init__(self, row: FeatureRow) -> None:
        self.row = row
        self.answer: Answer | None = None
        try:
            self.plain, self.size_bytes = _encoded(row)
        except InvalidInput as error:
            self.answer = error


class MasterFeatureDatabase(FeatureDatabase):
    """Commits rows at the master."""

    def __init__(self, client: RowClient) -> None:
        self._client = client
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._is_sending = False

    def __repr__(self) -> str:
        return f"<MasterFeatureDatabase at {self._client!r}, {len(self._waiting)} rows waiting>"

    def commit_many(self, rows: Sequence[FeatureRow]) -> list[Answer]:
        mine = [_Waiting(row) for row in rows]
        with self._changed:
            self._waiting.extend(each for each in mine if each.answer is None)
        # Whoever finds nobody sending sends for all that wait.
        while batch := self._next_batch(mine):
            answers: Sequence[Answer] = [StorageError("The feature rows were not sent.")] * len(batch)
            try:
                answers = self._send(batch)
            finally:
                self._finish(batch, answers)
        return [each.answer for each in mine if each.answer is not None]

    def rows(self, wanted: RowFilter) -> Iterator[FeatureRow]:
        if wanted.stream is None:
            raise InvalidInput("The master shows the feature rows of one stream at a time.", hint="Name the stream.")
        filters, after = as_query(wanted), 0
        while page := self._client.feature_rows(wanted.stream, **filters, after=after)["rows"]:
            yield from (from_plain(each["row"]) for each in page)
            after = page[-1]["number"]

    def count(self, wanted: RowFilter) -> int:
        return sum(1 for _ in self.rows(wanted))

    def close(self) -> None:
        """The client belongs to the engine."""

    def _next_batch(self, mine: Sequence[_Waiting]) -> list[_Waiting]:
        """Wait for the turn to send, and return what to send; nothing when all of ``mine`` are answered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_sending or all(each.answer for each in mine))
            if all(each.answer for each in mine):
                return []
            self._is_sending = True
            together = _together(self._waiting)
            batch, self._waiting = self._waiting[:together], self._waiting[together:]
            return batch

    def _finish(self, batch: Sequence[_Waiting], answers: Sequence[Answer]) -> None:
        with self._changed:
            for each, answer in zip(batch, answers, strict=True):
                each.answer = answer
            self._is_sending = False
            self._changed.notify_all()

    def _send(self, batch: Sequence[_Waiting]) -> Sequence[Answer]:
        try:
            verdicts = self._post(batch[0].row.stream, [each.plain for each in batch])["rows"]
            return [_answer(verdict) for _, verdict in zip(batch, verdicts, strict=True)]
        except Unavailable as error:
            text = f"The feature rows cannot reach the master: {error.text}"
            return [StorageError(text, hint=error.hint)] * len(batch)
        except Exception as error:  # noqa: BLE001  whoever waits for a row gets the error
            return [error] * len(batch)

    def _post(self, stream: str, plain: Sequence[Mapping[str, Any]]) -> Any:
        """Bring rows to the master, a few times if it says when to come again."""
        until, refusals = time.monotonic() + ASK_AGAIN_FOR_S, 0
        while True:
            try:
                return self._client.post_feature_rows(stream, plain)
            except Unavailable as error:
                if error.retry_after_s is None or time.monotonic() >= until:
                    raise
                refusals, first_s, chance = refusals + 1, error.retry_after_s, random.random()
                time.sleep(delay_s(refusals, first_s=first_s, longest_s=LONGEST_PAUSE_S, chance=chance))


def create(options: Mapping[str, Any], client: Any) -> MasterFeatureDatabase:
    """No options; needs a client of the master."""
    check(options)
    if client is None:
        raise ConfigurationError(
            "The feature database 'master' needs a cluster.", hint="Use the driver 'sqlite' with a 'file'."
        )
    return MasterFeatureDatabase(client)


def check(options: Mapping[str, Any]) -> None:
    """Refuse all options: there are none."""
    check_options("The feature database 'master'", options, ())


def as_query(wanted: RowFilter) -> dict[str, str | float]:
    """Return a filter as the query of the master's path; each entry of metadata is JSON."""
    plain = {
        "message_id": wanted.message_id,
        "tier": wanted.tier,
        "min_score": wanted.min_score,
        "max_score": wanted.max_score,
    }
    metadata = {f"metadata.{key}": json.dumps(value) for key, value in wanted.metadata.items()}
    return {key: value for key, value in plain.items() if value is not None} | metadata


def _together(waiting: Sequence[_Waiting]) -> int:
    """Return how many from the first on travel in one request: rows of one stream."""
    first = waiting[0]
    sizes = accumulate(each.size_bytes for each in waiting)
    fitting = takewhile(
        lambda pair: pair[0].row.stream == first.row.stream and pair[1] <= MAX_BYTES_PER_REQUEST,
        zip(waiting[:MAX_ROWS_PER_REQUEST], sizes, strict=False),
    )
    return max(1, len(list(fitting)))


def _encoded(row: FeatureRow) -> tuple[dict[str, Any], int]:
    """Return a row as it travels, and its bytes.

    Raises:
        InvalidInput: it cannot be kept, or is too long for the master by itself.
    """
    plain = as_plain(canonical(row))
    size_bytes = len(json_codec.dumps(plain)) + 1  # A comma or a bracket follows.
    if size_bytes >= MAX_BODY_BYTES:
        raise InvalidInput(
            f"The feature row of message {row.message_id!r} has {size_bytes} bytes, and the master takes less than "
            f"{MAX_BODY_BYTES}.",
            hint="Return fewer features with shorter names, or send less metadata.",
        )
    return plain, size_bytes


def _answer(verdict: Mapping[str, Any]) -> Answer:
    if "invalid" in verdict:
        return InvalidInput(verdict["invalid"])
    return RowDamaged(verdict["damaged"]) if "damaged" in verdict else from_plain(verdict["row"])
