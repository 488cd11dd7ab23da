"""What the audit log tells: ``GET /audit``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Records that one answer may hold.
MAX_RECORDS = 1_000


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One thing that somebody did.

    Attributes:
        number: Counts from 1, without a gap.
        at: Wall-clock seconds since 1970-01-01 UTC.
        who, role: The token with which it was asked for; its name, never its secret.
        came_from: The address from which the request came.
        did: The name of the operation, like ``streams.declare``.
        names: What it was done to, as the path of the request names it.
        details: What of the request is worth keeping; no parameters, which may hold secrets.
        status: How it was answered, as an HTTP status; from 400 on it was not done, from 500 on perhaps in part.
        missing: How many records before this one could not be written.
        previous: Digest of the record before; that of the first is empty.
    """

    number: int
    at: float
    who: str
    role: str
    came_from: str
    did: str
    names: Mapping[str, str]
    details: Mapping[str, Any]
    status: int
    missing: int = 0
    previous: str = ""


@dataclass(frozen=True, slots=True)
class AuditView:
    """The latest records, and whether all that are kept are as they were written.

    Attributes:
        records: Oldest first.
        kept: How many there are in all; the oldest are removed when they take too much room.
        digest: Of the latest record. Who has noted it can tell later whether anything up to there was changed.
        damage: What is wrong, and where; empty when nothing is.
    """

    records: tuple[AuditRecord, ...]
    kept: int
    digest: str
    damage: tuple[str, ...] = field(default=())
