"""What happened to message ids not long ago, in bounded memory.

Two generations: new facts go into the young one; when that is full, or old enough, it becomes the old one and the
previous old one is forgotten as a whole. So a fact lives for one to two spans, nothing is ever searched for, and
forgetting costs nothing per fact.
"""

from __future__ import annotations

from typing import Generic, TypeVar

Fact = TypeVar("Fact")


class RecentIds(Generic[Fact]):
    """Facts by (stream, message id).

    Args:
        span_s: A fact is kept at least this long, unless ``max_facts`` newer ones push it out.
        max_facts: How many facts are kept at most.
    """

    def __init__(self, span_s: float, max_facts: int) -> None:
        self._span_s = span_s
        self._per_generation = max(1, max_facts // 2)
        self._young: dict[tuple[str, str], Fact] = {}
        self._old: dict[tuple[str, str], Fact] = {}
        self._young_since: float | None = None

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def __repr__(self) -> str:
        return f"<RecentIds {len(self._young)} young, {len(self._old)} old>"

    def get(self, stream: str, message_id: str, now: float) -> Fact | None:
        """Return what is remembered."""
        self._turn(now)
        key = (stream, message_id)
        fact = self._young.get(key)
        return self._old.get(key) if fact is None else fact

    def put(self, stream: str, message_id: str, fact: Fact, now: float) -> None:
        """Remember a fact in place of an earlier one."""
        self._turn(now)
        if self._young_since is None:
            self._young_since = now
        self._young[stream, message_id] = fact

    def pop(self, stream: str, message_id: str, now: float) -> Fact | None:
        """Return what is remembered and forget it."""
        self._turn(now)
        key = (stream, message_id)
        old = self._old.pop(key, None)
        return self._young.pop(key, old)

    def drop(self, stream: str, message_id: str) -> None:
        """Forget one message."""
        for generation in (self._young, self._old):
            generation.pop((stream, message_id), None)

    def drop_stream(self, stream: str) -> None:
        """Forget everything about one stream."""
        for generation in (self._young, self._old):
            for key in [key for key in generation if key[0] == stream]:
                del generation[key]

    def _turn(self, now: float) -> None:
        since = self._young_since
        if since is None:
            return
        if now - since >= 2 * self._span_s:
            self._young, self._old, self._young_since = {}, {}, None
        elif now - since >= self._span_s or len(self._young) >= self._per_generation:
            self._young, self._old, self._young_since = {}, self._young, now
