"""The storage client: features and payload in, tier and row out. It needs no cluster.

    features ──function──► score ──policy──► tier ──► write the payload ──► commit the row ──► (was another first?)
       │                     │                                                                 yes: remove our own copy
       └── missing, NaN ─────┴── not in [0, 1], an exception ──► the tier ``unscored``, with the reason in the row

The commit of the row is what counts. A crash before it leaves a payload without a row, which :meth:`StorageClient.\
reconcile` removes; a message that is executed again finds the row of the first attempt.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Self

from harmonicio.core.errors import ConfigurationError, InvalidInput
from harmonicio.core.message import MessageIds
from harmonicio.haste.feature_db.base import ENTRY_POINT_GROUP, TABLE, FeatureDatabase, FeatureRow, RowFilter, finite
from harmonicio.haste.interestingness.base import InterestingnessFunction, create_function
from harmonicio.haste.policies.base import Policy, create_policy
from harmonicio.haste.registry import check_options, load
from harmonicio.haste.tiers.base import Tier, create_tiers

UNSCORED = "unscored"
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
    ) -> None:
        if UNSCORED not in tiers:
            raise ConfigurationError(
                f"There is no tier {UNSCORED!r}.", hint="Declare it: messages without a score are kept there."
            )
        self._function = function
        self._policy = policy
        self._tiers = dict(tiers)
        self._feature_db = feature_db
        self._ids = MessageIds()

    def __repr__(self) -> str:
        return f"<StorageClient with tiers {', '.join(self._tiers)}, {self._policy!r}>"

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], *, client: Any = None, default_feature_db: str = "sqlite"
    ) -> StorageClient:
        """Return the client that a declaration describes.

        Args:
            options: ``function`` {name, …}, ``policy`` {name, intervals}, ``tiers`` {NAME: {driver, …}} and
                ``feature_db`` {driver, …}.
            client: Client of the master, for feature rows that travel there.

        Raises:
            ConfigurationError: names what is missing, unknown or wrong.
        """
        check_options("HASTE", options, OPTIONS)
        for key in OPTIONS[:3]:
            if not isinstance(options.get(key), Mapping):
                raise ConfigurationError(f"HASTE needs a table {key!r}.")
        tiers = create_tiers(options["tiers"])
        database = dict(options.get("feature_db", {}))
        driver = database.pop("driver", default_feature_db)
        return cls(
            function=create_function(options["function"]),
            policy=create_policy(options["policy"], [name for name in tiers if name != UNSCORED]),
            tiers=tiers,
            feature_db=load("feature database", ENTRY_POINT_GROUP, TABLE, driver)(database, client),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._feature_db.close()

    def save(
        self,
        payload: memoryview | bytes,
        *,
        features: Mapping[str, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        score: float | None = None,
        stream: str = "local",
        attempt: int = 1,
        stream_version: int = 0,
        engine: str = "",
        unscored_because: str = "",
    ) -> FeatureRow:
        """Keep one message; return its row, or that of an earlier attempt if that was first.

        Args:
            score: A precomputed score; the function is not asked then.
            unscored_because: Why there are no features; the message goes to ``unscored``.

        Raises:
            StorageError: tier or database cannot be written; nothing counts, try again.
            Conflict: the message id is known with other bytes.
        """
        given, known = dict(features or {}), dict(metadata or {})
        reason = unscored_because
        if not reason:
            score, reason = self._score(given, known) if score is None else _checked(score)
        tier = UNSCORED if score is None or reason else self._policy.tier_for(score)
        identity = message_id or self._ids.draw()
        digest = blake2b(payload, digest_size=16).hexdigest()
        location = self._tiers[tier].write(stream, identity, payload)
        row = FeatureRow(
            stream=stream,
            message_id=identity,
            digest=digest,
            size_bytes=memoryview(payload).nbytes,
            tier=tier,
            location=location,
            attempt=attempt,
            features=_numbers(given),
            score=None if reason else score,
            reason=reason,
            metadata=known,
            stream_version=stream_version,
            engine=engine,
            processed_at=time.time(),
        )
        committed = self._feature_db.commit(row)
        counts = committed.row
        if not committed.is_first and (counts.tier, counts.location) != (tier, location):
            self._tiers[tier].remove(location)
        return counts

    def _score(self, features: Mapping[str, float], metadata: Mapping[str, Any]) -> tuple[float | None, str]:
        try:
            return _checked(self._function(features, metadata))
        except KeyError as error:
            return None, f"{error.args[0]!r} is neither a feature nor metadata that the function was given"
        except Exception as error:  # noqa: BLE001  whatever the user's function raises is recorded with the message
            return None, f"The interestingness function raised {type(error).__name__}: {error}"

    def read(self, row: FeatureRow) -> bytes:
        """Return the payload of a row.

        Raises:
            StorageError: it cannot be read, or the tier is not one of this client's.
        """
        tier = self._tiers.get(row.tier)
        if tier is None:
            raise InvalidInput(f"There is no tier {row.tier!r} here.")
        return tier.read(row.location)

    def rows(self, wanted: RowFilter | None = None) -> list[FeatureRow]:
        """Return the rows of the feature database, all of them or those of a filter."""
        return list(self._feature_db.rows(wanted or RowFilter()))

    def reconcile(self, stream: str) -> Reconciled:
        """Remove payloads that no row names, and say which rows miss theirs.

        Run it while nothing of the stream is being saved: a payload whose row is about to be committed has none yet.
        """
        rows = {(row.tier, row.location) for row in self._feature_db.rows(RowFilter(stream)) if row.location}
        removed = []
        kept = set()
        for name, tier in self._tiers.items():
            for each in tier.contents(stream):
                if (name, each.location) in rows:
                    kept.add((name, each.location))
                else:
                    tier.remove(each.location)
                    removed.append(f"{name}:{each.location}")
        return Reconciled(tuple(removed), tuple(f"{name}:{location}" for name, location in sorted(rows - kept)))


def _checked(score: Any) -> tuple[float | None, str]:
    if isinstance(score, bool) or (not isinstance(score, (int, float)) and not hasattr(score, "__float__")):
        return None, f"The score is {score!r:.60}, which is not a number"
    value = float(score)
    if not 0.0 <= value <= 1.0:  # Also NaN: comparisons with it are false.
        return None, f"The score is {value}, which is not in [0, 1]"
    return value, ""


def _numbers(features: Mapping[str, Any]) -> dict[str, float | None]:
    return finite({str(name): float(value) for name, value in features.items()})
