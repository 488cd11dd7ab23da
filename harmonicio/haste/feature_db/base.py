"""What a feature database does, and what it keeps.

The commit of a row is the point at which a message's effects count: a row is unique on (stream, message id), the first
one wins, and whoever comes later is told what was committed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harmonicio.core.errors import Conflict, InvalidInput
from harmonicio.core.names import check_message_id, check_name

ENTRY_POINT_GROUP = "harmonicio.feature_databases"

#: Each opens a database from its options and a client of the master (or None).
TABLE = {
    "sqlite": "harmonicio.haste.feature_db.sqlite:create",
    "memory": "harmonicio.haste.feature_db.memory:create",
    "master": "harmonicio.haste.feature_db.master:create",
}


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """What is known of one message.

    Attributes:
        digest: blake2b-128 of the payload, as hex: ties the row to its bytes.
        attempt: The execution that was first to commit, from 1.
        features: Numbers by name; what was NaN or infinite is None.
        score: In [0, 1]; None when there is none, and ``reason`` says why.
        tier, location: Where the payload is; no location in a tier that keeps nothing.
        stream_version: Declaration by which it was decided.
        processed_at: Wall-clock seconds.
    """

    stream: str
    message_id: str
    digest: str
    size_bytes: int
    tier: str
    location: str
    attempt: int = 1
    features: Mapping[str, float | None] = field(default_factory=dict)
    score: float | None = None
    reason: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    stream_version: int = 0
    engine: str = ""
    processed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Committed:
    """The row that counts, and whether it is the one that was just brought."""

    row: FeatureRow
    is_first: bool


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows are wanted; everything that is given must hold. Scores are inclusive."""

    stream: str | None = None
    tier: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class FeatureDatabase(Protocol):
    """Keeps feature rows; may be used by several threads."""

    def commit(self, row: FeatureRow) -> Committed:
        """Commit a row, or return the one that was first.

        Raises:
            Conflict: the message id was committed with other bytes.
            StorageError: it cannot be written now.
        """
        ...

    def rows(self, wanted: RowFilter) -> Iterator[FeatureRow]:
        """Yield rows in the order of their commit."""
        ...

    def count(self, wanted: RowFilter) -> int: ...

    def close(self) -> None: ...


def judge(row: FeatureRow, known: FeatureRow) -> Committed:
    """Return the verdict for a row whose message is known already.

    Raises:
        Conflict: it has other bytes.
    """
    if row.digest != known.digest:
        raise Conflict(
            f"Message {row.message_id!r} of stream {row.stream!r} is known with other bytes.",
            hint="Give each message an id of its own.",
        )
    return Committed(known, is_first=row == known)


def finite(features: Mapping[str, Any]) -> dict[str, float | None]:
    """Return features as JSON can hold them: NaN and infinities become None."""
    return {name: float(value) if math.isfinite(value) else None for name, value in features.items()}


def as_plain(row: FeatureRow) -> dict[str, Any]:
    """Return a row as plain values."""
    return {item.name: _plain(getattr(row, item.name)) for item in dataclasses.fields(row)}


def from_plain(plain: Any) -> FeatureRow:
    """Return the row that plain values describe.

    Raises:
        InvalidInput: a field is missing, unknown or of the wrong type.
    """
    known = {item.name for item in dataclasses.fields(FeatureRow)}
    if not isinstance(plain, Mapping) or not known >= set(plain):
        raise InvalidInput("A feature row is an object with the fields of a FeatureRow and no others.")
    try:
        row = FeatureRow(**plain)
    except TypeError as error:
        raise InvalidInput(f"A feature row is not complete: {error}.") from None
    check_name("stream", row.stream)
    check_message_id(row.message_id)
    _check_types(row)
    return row


def _check_types(row: FeatureRow) -> None:
    texts = (row.digest, row.tier, row.location, row.reason, row.engine)
    numbers = (row.score, row.processed_at, *row.features.values()) if isinstance(row.features, Mapping) else ("",)
    is_right = (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(count, int) for count in (row.size_bytes, row.attempt, row.stream_version))
        and all(number is None or isinstance(number, (int, float)) for number in numbers)
        and isinstance(row.metadata, Mapping)
    )
    if not is_right:
        raise InvalidInput(f"The feature row of message {row.message_id!r} has a field of the wrong type.")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
