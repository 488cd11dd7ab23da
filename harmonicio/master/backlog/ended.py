"""Which messages have ended not long ago: what was processed is recognised, what was shed is only told of.

Pure, as the ledger, and bounded: the latest half of so many ids at least.
"""

from __future__ import annotations

from harmonicio.master.backlog.entry import FINISHED_KEPT_S
from harmonicio.master.backlog.recent import RecentIds


class _Shed:
    """Stands for the digest of a message that was shed: its id is free, so nobody asks for it."""


_SHED = _Shed()


class EndedIds:
    """Ids of messages that were processed, with their digests, and of those that were shed; each for 24 h."""

    def __init__(self, max_ids: int) -> None:
        self._ids: RecentIds[bytes | _Shed] = RecentIds(FINISHED_KEPT_S, max_ids)

    def __repr__(self) -> str:
        return f"<EndedIds: {len(self._ids)}>"

    def put(self, stream: str, message_id: str, digest: bytes, now: float, *, is_shed: bool = False) -> None:
        """Remember how a message has ended."""
        self._ids.put(stream, message_id, _SHED if is_shed else digest, now)

    def digest(self, stream: str, message_id: str, now: float) -> bytes | None:
        """Return the digest of a message that was processed; None of any other."""
        found = self._ids.get(stream, message_id, now)
        return found if isinstance(found, bytes) else None

    def is_shed(self, stream: str, message_id: str, now: float) -> bool:
        return self._ids.get(stream, message_id, now) is _SHED

    def forget(self, stream: str, message_id: str, now: float) -> None:
        """A message of this id is there again."""
        self._ids.pop(stream, message_id, now)

    def drop_stream(self, stream: str) -> None:
        self._ids.drop_stream(stream)
