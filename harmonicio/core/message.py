"""A message, its identity and what can become of it.

A message is one autonomous payload with an id, metadata and a priority. Ids of our own are 8 random bytes drawn once
per connector and a counter of 8 bytes, written as 32 hex digits; sources that resend after a restart bring their own.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Self

#: What metadata and handler results may hold: None, bool, int, float, str, bytes, list and dict with text keys.
Value = Any
Metadata = Mapping[str, Value]

MIN_PRIORITY, MAX_PRIORITY = -(2**15), 2**15 - 1
#: A larger result does not travel with ``done``; the handler stores it and returns where it is.
MAX_RESULT_BYTES = 64 * 1024
MAX_METADATA_BYTES = 64 * 1024
#: Above this size a payload is received into a file instead of memory, unless the stream says otherwise.
MEMORY_PAYLOAD_MAX_BYTES = 64 * 1024**2
MAX_MESSAGE_BYTES = 64 * 1024**3


class OutcomeKind(IntEnum):
    """What the receiver says of a message; the numbers are on the wire.

    ``STORED``: the master has it on stable storage.
    """

    STORED = 1
    DONE = 2
    FAILED = 3
    REJECTED = 4


class RejectReason(StrEnum):
    """Why a receiver did not take a message.

    ``STORAGE``: there is no room for it. ``NOT_KEPT``: its handler has run, and what came of it cannot be kept now.
    """

    TOO_LARGE = "too_large"
    NO_CREDIT = "no_credit"
    DRAINING = "draining"
    ID_CONFLICT = "id_conflict"
    CHECKSUM = "checksum"
    BACKLOG_FULL = "backlog_full"
    STORAGE = "storage"
    NOT_KEPT = "not_kept"

    @property
    def is_final(self) -> bool:
        """Whether sending the same message again, anywhere, must fail again."""
        return self in (RejectReason.TOO_LARGE, RejectReason.ID_CONFLICT)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a handler did not finish a message: what crosses the wire instead of the exception."""

    error_type: str
    text: str
    traceback: str = ""
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one message.

    ``result`` goes with ``DONE``, ``failure`` with ``FAILED``, ``reason`` and ``text`` with ``REJECTED``.
    """

    kind: OutcomeKind
    result: Value = None
    failure: Failure | None = None
    reason: RejectReason | None = None
    text: str = ""

    @classmethod
    def rejected(cls, reason: RejectReason, text: str) -> Self:
        """Return the answer to a message that is not taken."""
        return cls(OutcomeKind.REJECTED, reason=reason, text=text)


_pack_id = struct.Struct("!8sQ").pack


class MessageIds:
    """Draws message ids: 8 random bytes for this connector, then a counter. Any thread may draw."""

    __slots__ = ("_numbers", "_prefix")

    def __init__(self, prefix: bytes | None = None) -> None:
        self._prefix = os.urandom(8) if prefix is None else prefix
        self._numbers = itertools.count()

    def draw(self) -> str:
        """Return the next id."""
        return self.draw_raw().hex()

    def draw_raw(self) -> bytes:
        """Return the next id as it travels."""
        return _pack_id(self._prefix, next(self._numbers))
