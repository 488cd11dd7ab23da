"""A processing engine as the rest of the system sees it."""

from __future__ import annotations

from enum import StrEnum

LONGEST_REPORT_INTERVAL_S = 1.0


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


def report_interval_s(timeout_s: float) -> float:
    """Return how long an engine is silent towards its controller at most, by its stream's time-out."""
    return min(LONGEST_REPORT_INTERVAL_S, timeout_s / 4)
