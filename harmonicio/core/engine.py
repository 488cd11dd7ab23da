"""A processing engine as the rest of the system sees it."""

from __future__ import annotations

from enum import StrEnum


class Availability(StrEnum):
    """The state of an engine.

    starting ──► idle ◄──► busy
        │          │         │
        │          └──► draining ──► (gone)
        └───────► lost ◄─────┘   no word from it, or from its controller, for too long
    """

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    LOST = "lost"

    @property
    def can_be_leased(self) -> bool:
        return self in (Availability.IDLE, Availability.BUSY)


class ExitReason(StrEnum):
    """Why an engine's process or container ended, in the controller's words."""

    ORDERED = "ordered"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    FAILED_TO_START = "failed_to_start"
    UNKNOWN = "unknown"
