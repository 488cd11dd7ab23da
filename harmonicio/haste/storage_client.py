"""The storage client: features and payload in, tier and row out. It needs no cluster.

    features ──function──► score ──policy──► tier ──► write the payload ──► commit the row ──► (was another first?)
       │                     │         │                                                       yes: remove our own copy
       └── missing, NaN ─────┴─────────┴── not in [0, 1], no such tier, an exception ──► the tier ``unscored``, with the
                                                                                         reason in the row

The commit of the row is what counts. A crash before it leaves a payload without a row, which :meth:`StorageClient.\
reconcile` removes: its message is not done, and whoever has it brings it again. A message that is executed again finds
the row of the first attempt.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from numbers import Real
from typing import Any, Self

from harmonicio.core.buffers import buffer_payload
from harmonicio.core.errors import ConfigurationError, Conflict, InvalidInput
from harmonicio.core.message import MessageIds
from harmonicio.core.names import check_message_id, check_name
from harmonicio.haste.feature_db.base import (
    DATABASES,
    MAX_FEATURES,
    FeatureDatabase,
    FeatureRow,
    RowFilter,
    canonical,
    check_database,
)
from harmonicio.haste.interestingness.base import InterestingnessFunction, check_function, create_function
from harmonicio.haste.options import check_options, shown
from harmonicio.haste.policies.base import Policy, create_policy
from harmonicio.haste.tiers.base import Tier, create_tiers

UNSCORED = "unscored"
#: A longer reason, such as the text of an exception that quotes an image, is cut.
MAX_REASON_LENGTH = 2000
OPTIONS = ("function", "policy", "tiers", "feature_db")


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a reconciliation found: locations without a row, which were removed, and rows without a payload."""

    removed: tuple[str, ...]
    missing: tuple[str, ...]


class StorageClient:
    """Scores messages, keeps each in the tier that it deserves, and records why.

    Args:
        function: Features and metadata to score.
        policy: Score to tier.
        tiers: The tiers by name; ``unscored`` must be among them.
        feature_db: Where rows are committed.
        function_name, policy_version: Stand in each row, so that it says how it was decided.

    Raises:
        ConfigurationError: there is no tier ``unscored``.
    """

    def __init__(
        self,
        *,
        function: InterestingnessFunction,
        policy: Policy,
        tiers: Mapping[str, Tier],
        feature_db: FeatureDatabase,
        function_name: str = "",
        policy_version: str = "",
    ) -> None:
        _check_unscored(tiers)
        self._function = function
        self._policy = policy
        self._tiers = dict(tiers)
        self._feature_db = feature_db
        self._function_name = function_name
        self._policy_version = policy_version
        self._ids = MessageIds()

    def __repr__(self) -> str:
        return f"<StorageClient with tiers {', '.join(self._tiers)}, {self._policy!r}>"

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], *, client: Any = None, default_feature_db: str = "sqlite"
    ) -> StorageClient:
        """Return the client that a declaration describes.

        Args:
            options: ``function`` {name, …} or a callable, ``policy`` {name, intervals}, ``tiers`` {NAME: {driver, …}}
                and ``feature_db`` {driver, …}.
            client: Client of the master, for feature rows that travel there.

        Raises:
            ConfigurationError: names what is missing, unknown or wrong.
        """
        _check_tables(options)
        tiers = create_tiers(options["tiers"])
        database = dict(options.get("feature_db", {}))
        driver = database.pop("driver", default_feature_db)
        return cls(
            function=create_function(options["function"]),
            policy=create_policy(options["policy"], [name for name in tiers if name != UNSCORED]),
            tiers=tiers,
            feature_db=DATABASES.load(driver)(database, client),
            function_name=_function_name(options["function"]),
            policy_version=_policy_version(options["policy"]),
        )

    @staticmethod
    def check(options: Mapping[str, Any], *, default_feature_db: str = "sqlite") -> None:
        """Raise what :meth:`from_options` would, as far as can be known elsewhere: nothing is opened or executed.

        Files of the user's own, and members whose packages are not installed here, are left to those who use them.

        Raises:
            ConfigurationError: names what is missing, unknown or wrong.
        """
        _check_tables(options)
        with _where_installed():
            create_tiers(options["tiers"])
        _check_unscored(options["tiers"])
        with _where_installed():
            check_function(options["function"])
        with _where_installed():
            create_policy(options["policy"], [name for name in options["tiers"] if name != UNSCORED])
        with _where_installed():
            check_database(options.get("feature_db", {}), default_feature_db)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._feature_db.close()

    def save(
        self,
        payload: Any,
        *,
        features: Mapping[str, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        score: float | None = None,
        stream: str = "local",
        attempt: int = 1,
        stream_version: int = 0,
        engine: str = "",
        image: str = "",
        route: str = "",
        emitted: int | None = None,
        unscored_because: str = "",
    ) -> FeatureRow:
        """Keep one message; return its row, or that of an earlier attempt if that was first.

        Args:
            payload: Bytes, an array, or another object with a contiguous buffer.
            score: A precomputed score; the function is not asked then. One that is no number in [0, 1] sends the
                message to ``unscored``, as one of the function does.
            image: Digest of the engine's image; empty without one.
            route: How the message came to the engine, ``engine`` or ``backlog``; empty without a cluster.
            emitted: Messages that the handler emitted for it; None where nobody knows.
            unscored_because: Why there are no features; the message goes to ``unscored``.

        Raises:
            InvalidInput: payload, name, id or row cannot be kept; nothing was written. A row that is too long for its
                database leaves a payload for :meth:`reconcile`.
            StorageError: tier or database cannot be written; nothing counts, try again.
            Conflict: the message id is known with other bytes.
        """
        check_name("stream", stream)
        identity = check_message_id(message_id) if message_id is not None else self._ids.draw()
        content = buffer_payload(payload, is_borrowed=True)
        numbers, reason = _numbers(features or {})
        known = dict(metadata or {})
        reason = unscored_because or reason
        tier, score, reason = (UNSCORED, None, reason) if reason else self._decide(numbers, known, score)
        row = FeatureRow(
            stream=stream,
            message_id=identity,
            digest=blake2b(content, digest_size=16).hexdigest(),
            size_bytes=len(content),
            tier=tier,
            location="",
            attempt=attempt,
            features=numbers,
            score=score,
            reason=reason[:MAX_REASON_LENGTH],
            metadata=known,
            function=self._function_name,
            policy_version=self._policy_version,
            stream_version=stream_version,
            engine=engine,
            image=image,
            route=route,
            emitted=emitted,
            processed_at=time.time(),
        )
        row = canonical(row)
        return self._commit(replace(row, location=self._tiers[tier].write(stream, identity, content)))

    def _commit(self, row: FeatureRow) -> FeatureRow:
        """Commit a row and return the one that counts; what was written for another is removed."""
        try:
            counts = self._feature_db.commit(row)
        except Conflict:
            # Other bytes have a location of their own, so this is nobody else's.
            self._tiers[row.tier].remove(row.location)
            raise
        if (counts.tier, counts.location) != (row.tier, row.location):
            self._tiers[row.tier].remove(row.location)
        return counts

    def _decide(
        self, features: Mapping[str, float], metadata: Mapping[str, Any], score: float | None
    ) -> tuple[str, float | None, str]:
        """Return tier and score, or ``unscored`` and the reason."""
        score, reason = self._score(features, metadata) if score is None else _checked(score)
        if score is None or reason:
            return UNSCORED, None, reason
        tier, reason = self._place(score)
        return tier, None if reason else score, reason

    def _score(self, features: Mapping[str, float], metadata: Mapping[str, Any]) -> tuple[float | None, str]:
        try:
            score, reason = _checked(self._function(features, metadata))
        except KeyError as error:
            return None, f"{error} is neither a feature nor metadata that the function was given"
        except Exception as error:  # noqa: BLE001  whatever the user's function raises is recorded with the message
            return None, f"The interestingness function raised {type(error).__name__}: {error}"
        undefined = [name for name, value in features.items() if not math.isfinite(value)]
        return score, f"{reason}; no finite number: {', '.join(undefined)}" if reason and undefined else reason

    def _place(self, score: float) -> tuple[str, str]:
        """Return the policy's tier, or why it has none."""
        try:
            tier = self._policy.tier_for(score)
            if tier in self._tiers:
                return tier, ""
        except Exception as error:  # noqa: BLE001  a policy may be anybody's code
            return UNSCORED, f"The policy raised {type(error).__name__}: {error}"
        return UNSCORED, f"The policy names the tier {shown(tier)}, which is not declared"

    def read(self, row: FeatureRow) -> bytes:
        """Return the payload of a row.

        Raises:
            InvalidInput: the tier is not one of this client's.
            StorageError: it cannot be read.
        """
        tier = self._tiers.get(row.tier)
        if tier is None:
            raise InvalidInput(f"There is no tier {row.tier!r} here.")
        return tier.read(row.location)

    def rows(self, wanted: RowFilter | None = None) -> list[FeatureRow]:
        """Return the rows of the feature database, all of them or those of a filter."""
        return list(self._feature_db.rows(wanted or RowFilter()))

    def reconcile(self, stream: str, *, older_than_s: float = 3600.0) -> Reconciled:
        """Remove payloads that no row names, and say which rows miss theirs.

        Args:
            older_than_s: Younger payloads are left alone: the row of one that is being saved is about to come.
        """
        # Rows first: a payload is written, and its row committed, in the other order.
        rows = {(row.tier, row.location) for row in self._feature_db.rows(RowFilter(stream)) if row.location}
        limit = time.time() - older_than_s
        found = [(name, kept) for name, tier in self._tiers.items() for kept in tier.contents(stream)]
        orphans = [
            (name, kept.location)
            for name, kept in found
            if (name, kept.location) not in rows and kept.written_at <= limit
        ]
        for name, location in orphans:
            self._tiers[name].remove(location)
        missing = rows - {(name, kept.location) for name, kept in found}
        return Reconciled(
            tuple(f"{name}:{location}" for name, location in orphans),
            tuple(f"{name}:{location}" for name, location in sorted(missing) if name in self._tiers),
        )


def _check_tables(options: Mapping[str, Any]) -> None:
    check_options("HASTE", options, OPTIONS)
    for key in OPTIONS:
        is_callable = key == "function" and callable(options.get(key))
        if not isinstance(options.get(key, {} if key == "feature_db" else None), Mapping) and not is_callable:
            raise ConfigurationError(f"HASTE needs a table {key!r}.")


def _check_unscored(tiers: Mapping[str, Any]) -> None:
    if UNSCORED not in tiers:
        raise ConfigurationError(
            f"There is no tier {UNSCORED!r}.", hint="Declare it: messages without a score are kept there."
        )


@contextmanager
def _where_installed() -> Iterator[None]:
    """Let pass what cannot be checked because a package is not installed here."""
    try:
        yield
    except ConfigurationError as error:
        if not isinstance(error.__cause__, ModuleNotFoundError):
            raise


def _checked(score: Any) -> tuple[float | None, str]:
    """Return a score as a float, or why it is none; numbers of numpy are numbers."""
    is_number = isinstance(score, Real) and not isinstance(score, bool)
    if not is_number:
        return None, f"The score is {shown(score)}, which is not a number"
    if not 0 <= score <= 1:  # Also NaN: comparisons with it are false.
        return None, f"The score is {shown(score)}, which is not in [0, 1]"
    return float(score), ""


def _numbers(features: Mapping[str, Any]) -> tuple[dict[str, float], str]:
    """Return the features that are numbers, and why the features cannot be used, if so."""
    numbers, reason = {}, ""
    for name, value in list(features.items())[:MAX_FEATURES]:
        try:
            numbers[str(name)] = float(value)
        except (TypeError, ValueError, OverflowError):
            reason = reason or f"The feature {shown(name)} is {shown(value)}, which is not a number"
    if len(features) > MAX_FEATURES:
        reason = f"There are {len(features)} features, more than {MAX_FEATURES}"
    return numbers, reason


def _function_name(function: Mapping[str, Any] | InterestingnessFunction) -> str:
    if callable(function):
        return getattr(function, "__qualname__", type(function).__qualname__)
    return " ".join(str(value) if key == "name" else f"{key}={value}" for key, value in function.items())


def _policy_version(policy: Mapping[str, Any]) -> str:
    """Return a policy's name and a digest of its options: another policy has another version."""
    options = json.dumps(policy, sort_keys=True, default=str).encode()
    return f"{policy.get('name', 'interval')}-{blake2b(options, digest_size=4).hexdigest()}"
