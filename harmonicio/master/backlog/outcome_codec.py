"""Outcomes and failures as stores keep them: msgpack of what also stands on the wire.

outcome    [kind, detail, attempts]
failure    {type, text, traceback, retryable}
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from harmonicio.core.errors import RemoteProtocolError, StorageError
from harmonicio.core.message import Failure, Outcome, OutcomeKind
from harmonicio.wire.codec import pack, unpack
from harmonicio.wire.sections import failure_map, outcome_detail, read_failure, read_outcome


@dataclass(frozen=True, slots=True)
class KeptOutcome:
    """The outcome of a finished message, and which attempt it was."""

    outcome: Outcome
    attempts: int


def encode_outcome(kept: KeptOutcome) -> bytes:
    """Return an outcome as a store keeps it."""
    detail = outcome_detail(kept.outcome)
    if detail is None:
        return _encode_plain(kept.outcome.kind, kept.attempts)
    return pack([int(kept.outcome.kind), detail, kept.attempts])


def decode_outcome(data: bytes) -> KeptOutcome:
    """Return an outcome that a store has kept.

    Raises:
        StorageError: the bytes are not what :func:`encode_outcome` returns.
    """
    try:
        kind, detail, attempts = unpack(data)
        return KeptOutcome(read_outcome(kind, detail), int(attempts))
    except (RemoteProtocolError, ValueError, TypeError) as error:
        raise StorageError(f"A stored outcome cannot be read: {error}") from error


def encode_failure(failure: Failure) -> bytes:
    """Return a failure as a store keeps it."""
    return pack(failure_map(failure))


def decode_failure(data: bytes) -> Failure:
    """Return a failure that a store has kept.

    Raises:
        StorageError: the bytes are not what :func:`encode_failure` returns.
    """
    try:
        return read_failure(unpack(data))
    except RemoteProtocolError as error:
        raise StorageError(f"A stored failure cannot be read: {error}") from error


@lru_cache(maxsize=64)
def _encode_plain(kind: OutcomeKind, attempts: int) -> bytes:
    return pack([int(kind), None, attempts])
