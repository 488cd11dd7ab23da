"""How much the backlog holds and may hold.

Full means refusal, never loss. Dead letters are never pushed out either: when they fill their share, nothing new is
taken until somebody replays or purges them.

      admit ──► (a payload arrives) ──► enter ──► … ──► bury ──► … ──► leave
        └────────── withdraw
"""

from __future__ import annotations

from dataclasses import dataclass

from harmonicio.master.backlog.entry import Entry, cost_bytes

RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class LedgerLimits:
    """What the backlog may hold.

    Attributes:
        max_bytes: Payloads, header sections and a share for each row, dead letters and what they say included.
        section_bytes: Header sections, which stay in memory.
        dead_letter_bytes: Dead letters, out of ``max_bytes``.
        max_finished_ids: Ids of finished and shed messages that are remembered; the latest half of them always is.
    """

    max_bytes: int = 100 * 1024**3
    max_messages: int = 1_000_000
    section_bytes: int = 512 * 1024**2
    dead_letter_bytes: int = 10 * 1024**3
    max_finished_ids: int = 400_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no message of this size is taken now, and when to try again; ``is_final`` says that it never will be."""

    text: str
    retry_after_s: float
    is_final: bool = False


class Budget:
    """The gauges of the whole backlog, arriving messages included."""

    def __init__(self, limits: LedgerLimits) -> None:
        self.limits = limits
        self.used_bytes = 0
        self.messages = 0
        self.section_bytes = 0
        self.dead_bytes = 0

    def __repr__(self) -> str:
        return f"<Budget {self.messages} messages, {self.used_bytes} bytes, {self.dead_bytes} of them dead>"

    def refusal(self, size_bytes: int) -> Refusal | None:
        """Return why no message of this size can be taken now; None when it can."""
        limits = self.limits
        if cost_bytes(size_bytes) > limits.max_bytes:
            text = f"A message of {size_bytes} bytes is larger than the whole backlog, {limits.max_bytes} bytes."
            return Refusal(text, RETRY_AFTER_S, is_final=True)
        if self.used_bytes + cost_bytes(size_bytes) > limits.max_bytes or self.messages >= limits.max_messages:
            text = f"The backlog is full: {self.messages} messages, {self.used_bytes} of {limits.max_bytes} bytes."
        elif self.section_bytes > limits.section_bytes:
            text = f"The metadata of waiting messages fills its budget of {limits.section_bytes} bytes."
        elif self.is_full_of_dead:
            text = (
                f"Dead letters fill their budget of {limits.dead_letter_bytes} bytes: nothing is taken until some are "
                "replayed or purged (harmonicio dead ls, dead replay, dead purge)."
            )
        else:
            return None
        return Refusal(text, RETRY_AFTER_S)

    @property
    def is_full_of_dead(self) -> bool:
        """Whether dead letters fill their share."""
        return self.dead_bytes > self.limits.dead_letter_bytes

    def admit(self, size_bytes: int) -> None:
        """Set aside room for a message whose header section is not counted yet."""
        self.used_bytes += cost_bytes(size_bytes)
        self.messages += 1

    def withdraw(self, size_bytes: int) -> None:
        """Give back room that was admitted."""
        self.used_bytes -= cost_bytes(size_bytes)
        self.messages -= 1

    def enter(self, entry: Entry) -> None:
        """An admitted message is part of the backlog."""
        self.used_bytes += len(entry.section)
        self.section_bytes += len(entry.section)

    def leave(self, entry: Entry) -> None:
        """A message that was entered is gone."""
        self.used_bytes -= len(entry.section)
        self.section_bytes -= len(entry.section)
        self.withdraw(entry.size_bytes)

    def come_back(self, entry: Entry) -> None:
        """What has left is part of the backlog again."""
        self.admit(entry.size_bytes)
        self.enter(entry)

    def bury(self, entry: Entry) -> None:
        self.used_bytes += entry.death_bytes
        self.dead_bytes += entry.cost_bytes

    def unbury(self, entry: Entry) -> None:
        self.dead_bytes -= entry.cost_bytes
        self.used_bytes -= entry.death_bytes
        entry.death_bytes = 0
