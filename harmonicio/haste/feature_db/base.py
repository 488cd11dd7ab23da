"""What a feature database does, and what it keeps.

The commit of a row is the point at which a message's effects count: a row is unique on (stream, message id), the first
one wins, and whoever comes later is told what was committed.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from harmonicio.control.members import Family
from harmonicio.core.errors import Conflict, InvalidInput, StorageError
from harmonicio.core.names import check_message_id, check_name

#: More would be data, not features.
MAX_FEATURES = 4096

#: Each opens a database from its options and a client of the master (or None).
DATABASES = Family(
    "feature database",
    "harmonicio.feature_databases",
    {
        "sqlite": "harmonicio.haste.feature_db.sqlite:create",
        "memory": "harmonicio.haste.feature_db.memory:create",
        "master": "harmonicio.haste.feature_db.master:create",
    },
    extra="haste",
)

#: Each looks at the options of a database without opening it; a database need not have one.
CHECKS = Family(
    "check of a feature database",
    "harmonicio.feature_database_checks",
    {
        "sqlite": "harmonicio.haste.feature_db.sqlite:file_of",
        "memory": "harmonicio.haste.feature_db.memory:max_rows_of",
        "master": "harmonicio.haste.feature_db.master:check",
    },
    extra="haste",
)


def check_database(options: Mapping[str, Any], default_driver: str) -> None:
    """Look at the table ``feature_db`` of a declaration without opening a database.

    Raises:
        ConfigurationError: there is no such database, or it does not take these options.
    """
    given = dict(options)
    driver = given.pop("driver", default_driver)
    DATABASES.load(driver)
    if driver in CHECKS.names():
        CHECKS.load(driver)(given)


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """What is known of one message.

    Attributes:
        digest: BLAKE2b with 128 bits of the payload, as hex: ties the row to its bytes (``b2sum -l 128`` prints it).
        attempt: The execution that was first to commit, from 1.
        features: Numbers by name; what was NaN or infinite is None.
        score: In [0, 1]; None when there is none, and ``reason`` says why.
        tier, location: Where the payload is; no location in a tier that keeps nothing.
        function: The interestingness function with its parameters, in words.
        policy_version: Tells which policy decided; another policy has another.
        stream_version: Declaration by which it was decided.
        image: Digest of the container image that processed it; empty without one.
        processed_at: Wall-clock seconds.
        route: How the message came: ``engine``, straight from its source, or ``backlog``; empty where nobody knows.
        emitted: Messages that its handler emitted, which leave after the commit; None where nobody knows.
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
    function: str = ""
    policy_version: str = ""
    stream_version: int = 0
    engine: str = ""
    processed_at: float = 0.0
    route: str = ""
    image: str = ""
    emitted: int | None = None

    @property
    def result(self) -> dict[str, Any]:
        """What the source of the message is told."""
        return {"score": self.score, "tier": self.tier, "features": dict(self.features), "reason": self.reason}


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows are wanted; everything that is given must hold.

    Attributes:
        min_score, max_score: Both included; rows without a score fit neither.
        metadata: Entries that must be equal: text, numbers, truth values, or None for one that is null or missing.
    """

    stream: str | None = None
    message_id: str | None = None
    tier: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def matches(self, row: FeatureRow) -> bool:
        score = row.score
        return (
            self.stream in (None, row.stream)
            and self.message_id in (None, row.message_id)
            and self.tier in (None, row.tier)
            and (self.min_score is None or (score is not None and score >= self.min_score))
            and (self.max_score is None or (score is not None and score <= self.max_score))
            and all(row.metadata.get(key) == plain_value(value) for key, value in self.metadata.items())
        )


class RowDamaged(StorageError):
    """The row that counts for a message cannot be understood; to read it again would not help."""

    retryable = False


#: What becomes of a row: the row that counts, which is itself or the one that was first; or why there is none.
Answer = FeatureRow | Exception


class FeatureDatabase(ABC):
    """Keeps feature rows; may be used by several threads. What it keeps and gives back is :func:`canonical`."""

    @abstractmethod
    def commit_many(self, rows: Sequence[FeatureRow]) -> list[Answer]:
        """Commit rows together; return the answer for each.

        A row that cannot be kept (InvalidInput), or whose first is damaged (RowDamaged), hinders no other.

        Raises:
            StorageError: they cannot be written now.
        """

    @abstractmethod
    def rows(self, wanted: RowFilter) -> Iterator[FeatureRow]:
        """Yield rows in the order of their commit.

        Raises:
            StorageError: they cannot be read now.
        """

    @abstractmethod
    def count(self, wanted: RowFilter) -> int:
        """Return how many rows there are."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds; may be called again."""

    def commit(self, row: FeatureRow) -> FeatureRow:
        """Commit a row and return the one that counts: itself, or the one that was first.

        Raises:
            Conflict: the message id was committed with other bytes.
            InvalidInput: it cannot be kept.
            StorageError: it cannot be written now; nor ever, if the one that was first is damaged.
        """
        (known,) = self.commit_many([row])
        if not isinstance(known, FeatureRow):
            raise known
        if row.digest != known.digest:
            raise Conflict(
                f"Message {row.message_id!r} of stream {row.stream!r} is known with other bytes.",
                hint="Give each message an id of its own.",
            )
        return known


def canonical(row: FeatureRow) -> FeatureRow:
    """Return a row as it comes back from any database.

    Raises:
        InvalidInput: it cannot be kept.
    """
    return from_plain(as_plain(row))


def canonical_or_error(row: FeatureRow) -> Answer:
    """Return a row as it comes back from any database, or why it cannot be kept."""
    try:
        return canonical(row)
    except InvalidInput as error:
        return error


def as_plain(row: FeatureRow) -> dict[str, Any]:
    """Return a row as JSON can hold it.

    Raises:
        InvalidInput: something in it is nested without end.
    """
    try:
        return {item.name: plain_value(getattr(row, item.name)) for item in dataclasses.fields(row)}
    except RecursionError:
        raise InvalidInput("Metadata cannot be nested that deeply.") from None


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
    texts = [row.digest, row.tier, row.location, row.reason, row.function, row.policy_version]
    texts += [row.engine, row.route, row.image]
    counts = (row.size_bytes, row.attempt, row.stream_version, 0 if row.emitted is None else row.emitted)
    numbers = (row.score, row.processed_at, *row.features.values()) if isinstance(row.features, Mapping) else ("",)
    is_right = (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(count, int) and 0 <= count < 2**63 for count in counts)
        and all(number is None or (isinstance(number, (int, float)) and math.isfinite(number)) for number in numbers)
        and row.processed_at is not None
        and len(row.features) <= MAX_FEATURES
        and isinstance(row.metadata, Mapping)
    )
    if not is_right:
        raise InvalidInput(f"The feature row of message {row.message_id!r} has a field of the wrong type or size.")


def plain_value(value: Any) -> Any:
    """Return a value as JSON can hold it: bytes become hex, numbers of numpy numbers, NaN and infinities None."""
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_value(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral) and -(2**63) <= int(value) < 2**63:
        return int(value)
    if isinstance(value, Real):
        return _finite(value)
    # Half of a surrogate pair, as in the name of a file with strange bytes, is in no UTF-8.
    return str(value).encode("utf-8", "backslashreplace").decode()


def _finite(value: Real) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
