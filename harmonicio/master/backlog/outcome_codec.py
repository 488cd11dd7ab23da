"""Outcomes and failures as stores keep them: msgpack of what also stands on the wire.

outcome    [kind, detail, attempts]
death      {type, text, traceback, retryable, died_at, engine, image, version}
           earlier releases wrote the first four only
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from harmonicio.core.errors import InvalidInput, RemoteProtocolError, StorageError
from harmonicio.core.message import MAX_RESULT_BYTES, Outcome, OutcomeKind
from harmonicio.core.names import MAX_NAME_LENGTH
from harmonicio.master.backlog.entry import Death
from harmonicio.wire.codec import pack, unpack
from harmonicio.wire.sections import failure_map, outcome_detail, packed_detail, read_failure, read_outcome, sendable

#: A longer digest is none.
MAX_IMAGE_LENGTH = 200


@dataclass(frozen=True, slots=True)
class KeptOutcome:
    """The outcome of a finished message, and which attempt it was."""

    outcome: Outcome
    attempts: int


def check_answer(outcome: Outcome) -> None:
    """See that an engine's answer is one that can be kept, and passed on.

    Raises:
        RemoteProtocolError: an engine does not answer like that.
    """
    if outcome.kind is OutcomeKind.STORED:
        raise RemoteProtocolError("An engine answered `stored`, which only the master does.")
    if outcome.result is None:
        return
    try:
        size_bytes = len(packed_detail(outcome))
    except InvalidInput as error:
        raise RemoteProtocolError(f"An engine sent a result that cannot be kept: {error.text}") from None
    if size_bytes > MAX_RESULT_BYTES:
        raise RemoteProtocolError(f"An engine sent a result of {size_bytes} bytes, more than {MAX_RESULT_BYTES}.")


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
    except (RemoteProtocolError, ValueError, TypeError, OverflowError) as error:
        raise StorageError(f"A stored outcome cannot be read: {error}") from error


def encode_death(death: Death) -> bytes:
    """Return why a message died as a store keeps it, whatever texts it has."""
    who = {"engine": sendable(death.engine[:MAX_NAME_LENGTH]), "image": sendable(death.image[:MAX_IMAGE_LENGTH])}
    when = {"died_at": death.died_at, "version": death.stream_version}
    return pack({**failure_map(death.failure), **who, **when})


def decode_death(data: bytes) -> Death:
    """Return why a message died, as a store has kept it.

    Raises:
        StorageError: the bytes are not what :func:`encode_death` returns.
    """
    try:
        fields = unpack(data)
        return Death(
            read_failure(fields),
            float(fields.get("died_at", 0.0)),
            str(fields.get("engine", "")),
            str(fields.get("image", "")),
            int(fields.get("version", 0)),
        )
    except (RemoteProtocolError, ValueError, TypeError, OverflowError) as error:
        unreadable = StorageError(f"Why a message died cannot be read: {error}")
        unreadable.retryable = False  # Reading it again would not help.
        raise unreadable from error


@lru_cache(maxsize=64)
def _encode_plain(kind: OutcomeKind, attempts: int) -> bytes:
    return pack([int(kind), None, attempts])
