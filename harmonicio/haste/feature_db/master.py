"""Feature rows by way of the master, which is the single writer of its SQLite file.

Rows that several threads bring at the same time travel in one request, up to a number and a size. A master that has
too many just then is asked again for a moment, because a handler's work would be for nothing; not for longer, because
its slot is held meanwhile.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from harmonicio.haste.group_commit import GroupCommit
from harmonicio.haste.options import check_options

#: A request is as long as its rows are, up to half of what the master reads; one that is longer by itself goes alone.
MAX_ROWS_PER_REQUEST, MAX_BYTES_PER_REQUEST = 200, MAX_BODY_BYTES // 2
#: For how long a master that is busy is asked again, and the longest pause between.
ASK_AGAIN_FOR_S, LONGEST_PAUSE_S = 3.0, 1.0


class RowClient(Protocol):
    """What is asked of the master; :class:`~harmonicio.control.client.MasterClient` does it."""

    def post_feature_rows(self, stream: str, rows: Sequence[Mapping[str, Any]]) -> Any: ...

    def feature_rows(self, stream: str, **filters: str | int | float) -> Any: ...


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A row as it travels, with its bytes there."""

    stream: str
    plain: Mapping[str, Any]
    size_bytes: int


class MasterFeatureDatabase(FeatureDatabase):
    """Commits rows at the master."""

    def __init__(self, client: RowClient) -> None:
        self._client = client
        self._group = GroupCommit(self._send, _together)

    def __repr__(self) -> str:
        return f"<MasterFeatureDatabase at {self._client!r}, {self._group!r}>"

    def commit_many(self, rows: Sequence[FeatureRow]) -> list[Answer]:
        given = [_encoded_or_error(row) for row in rows]
        answers = iter(self._group.commit([each for each in given if isinstance(each, _Encoded)]))
        return [next(answers) if isinstance(each, _Encoded) else each for each in given]

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

    def _send(self, batch: Sequence[_Encoded]) -> list[Answer]:
        try:
            verdicts = self._post(batch[0].stream, [each.plain for each in batch])["rows"]
        except Unavailable as error:
            raise StorageError(f"The feature rows cannot reach the master: {error.text}", hint=error.hint) from error
        return [_answer(verdict) for verdict in verdicts]

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


def _together(line: Sequence[_Encoded]) -> int:
    """Return how many from the first on travel in one request: rows of one stream."""
    sizes = accumulate(each.size_bytes for each in line)
    fitting = takewhile(
        lambda pair: pair[0].stream == line[0].stream and pair[1] <= MAX_BYTES_PER_REQUEST,
        zip(line[:MAX_ROWS_PER_REQUEST], sizes, strict=False),
    )
    return max(1, len(list(fitting)))


def _encoded_or_error(row: FeatureRow) -> _Encoded | InvalidInput:
    """Return a row as it travels, or why it cannot be kept, or not be brought to the master even alone."""
    try:
        plain = as_plain(canonical(row))
        size_bytes = len(json_codec.dumps(plain)) + 1  # A comma or a bracket follows.
    except InvalidInput as error:
        return error
    if size_bytes < MAX_BODY_BYTES:
        return _Encoded(row.stream, plain, size_bytes)
    return InvalidInput(
        f"The feature row of message {row.message_id!r} has {size_bytes} bytes, and the master takes less than "
        f"{MAX_BODY_BYTES}.",
        hint="Return fewer features with shorter names, or send less metadata.",
    )


def _answer(verdict: Mapping[str, Any]) -> Answer:
    if "invalid" in verdict:
        return InvalidInput(verdict["invalid"])
    return RowDamaged(verdict["damaged"]) if "damaged" in verdict else from_plain(verdict["row"])
