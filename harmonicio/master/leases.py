"""Leases: which source may send to which engine, and until when.

    grant ──► held ──renew, before the term is over──► held
                │
                ├── release by its source
                ├── expire: the term is over
                └── revoke: its engine went away or drains, its stream was deleted, or the epoch was raised
                         │
                         ▼
                       ended

Rules:

- One source holds at most one lease on one engine; several sources may each hold one on the same engine.
- The end of a lease bars new connections with its ticket. Live connections go on (the engine decides about those).
- A renewal answers ``ended`` for every lease that is not held by this source here. After a restart of the master that
  is all of them: connectors ask for new leases while their connections stay open.
- Lease ids are never used twice: a random prefix, drawn by the shell at each start, then a counter.

Pure: no I/O, no clock. All leases have the same term, so the order of granting and renewing is the order of ending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice, takewhile

from harmonicio.control.messages import LeaseRenewal
from harmonicio.core.errors import Conflict, Unavailable
from harmonicio.core.lease import LEASE_TERM_S

MAX_LEASES = 50_000


@dataclass(frozen=True, slots=True)
class HeldLease:
    """One lease in force; ``ends_at`` is on the caller's monotonic clock."""

    lease: str
    source: str
    stream: str
    engine: str
    ends_at: float


class LeaseTable:
    """All leases in force."""

    def __init__(self, *, id_prefix: str, epoch: int = 1, term_s: float = LEASE_TERM_S) -> None:
        self.epoch = epoch
        self.term_s = term_s
        self._id_prefix = id_prefix
        self._granted = 0
        self._held: dict[str, HeldLease] = {}  # in the order in which they end
        self._by_engine: dict[str, dict[str, str]] = {}  # engine -> source -> lease
        self._revoked: dict[str, HeldLease] = {}  # of engines that went away, for a term: their sources may ask why

    def __repr__(self) -> str:
        return f"<LeaseTable epoch={self.epoch} held={len(self._held)} engines={len(self._by_engine)}>"

    def __len__(self) -> int:
        return len(self._held)

    def grant(self, source: str, stream: str, engine: str, now: float) -> HeldLease:
        """Let ``source`` send to ``engine`` for a term.

        Raises:
            Conflict: this source holds a lease on this engine already.
            Unavailable: there are too many leases.
        """
        if self.is_held(source, engine):
            raise Conflict(f"Source {source!r} holds a lease on engine {engine!r} already.")
        if len(self._held) >= MAX_LEASES:
            raise Unavailable(f"The master has {MAX_LEASES} leases in force already.", retry_after_s=self.term_s)
        self._granted += 1
        held = HeldLease(f"{self._id_prefix}{self._granted:08x}", source, stream, engine, now + self.term_s)
        self._held[held.lease] = held
        self._by_engine.setdefault(engine, {})[source] = held.lease
        return held

    def renew(
        self, source: str, leases: Iterable[str], now: float, is_gone: Callable[[str], bool] = lambda _: False
    ) -> LeaseRenewal:
        """Let the source's leases go on for another term from now; say which of them have ended.

        Args:
            is_gone: Whether an engine, given by its name, has ended or is lost.
        """
        renewed, ended, gone = [], [], []
        for lease in dict.fromkeys(leases):
            held = self._held.get(lease)
            if held is None or held.source != source or held.ends_at <= now:
                ended.append(lease)
                revoked = self._revoked.get(lease)
                if revoked is not None and revoked.source == source and is_gone(revoked.engine):
                    gone.append(lease)
                continue
            del self._held[lease]
            self._held[lease] = replace(held, ends_at=now + self.term_s)
            renewed.append(lease)
        return LeaseRenewal(tuple(renewed), tuple(ended), tuple(gone))

    def release(self, source: str, leases: Iterable[str]) -> tuple[HeldLease, ...]:
        """End leases that their source gives back; those of other sources stay."""
        return self._end(lease for lease in leases if lease in self._held and self._held[lease].source == source)

    def end_unknown(self, source: str, stream: str, known: Iterable[str]) -> tuple[HeldLease, ...]:
        """End the leases of a source on a stream that it does not know of: the answer that granted them was lost."""
        names = set(known)
        leases = [sources[source] for sources in self._by_engine.values() if source in sources]
        return self._end(lease for lease in leases if lease not in names and self._held[lease].stream == stream)

    def expire(self, now: float) -> tuple[HeldLease, ...]:
        """End the leases whose term is over."""
        due = []
        for lease, held in self._held.items():
            if held.ends_at > now:
                break
            due.append(lease)
        for lease in list(takewhile(lambda lease: self._revoked[lease].ends_at + self.term_s <= now, self._revoked)):
            del self._revoked[lease]
        return self._end(due)

    def revoke_engine(self, engine: str) -> tuple[HeldLease, ...]:
        """End all leases on an engine that went away or takes no more messages."""
        ended = self._end(tuple(self._by_engine.get(engine, {}).values()))
        self._revoked.update({held.lease: held for held in ended})
        for lease in list(islice(self._revoked, max(0, len(self._revoked) - MAX_LEASES))):
            del self._revoked[lease]
        return ended

    def revoke_stream(self, stream: str) -> tuple[HeldLease, ...]:
        """End all leases of a stream."""
        return self._end([lease for lease, held in self._held.items() if held.stream == stream])

    def raise_epoch(self, epoch: int) -> tuple[HeldLease, ...]:
        """End every lease; tickets of earlier epochs are not accepted any more."""
        self.epoch = max(self.epoch, epoch)
        return self._end(tuple(self._held))

    def _end(self, leases: Iterable[str]) -> tuple[HeldLease, ...]:
        ended = tuple(self._held.pop(lease) for lease in dict.fromkeys(leases))
        for held in ended:
            sources = self._by_engine[held.engine]
            del sources[held.source]
            if not sources:
                del self._by_engine[held.engine]
        return ended

    def is_held(self, source: str, engine: str) -> bool:
        return source in self._by_engine.get(engine, {})

    def count_on(self, engine: str) -> int:
        """Return how many sources hold a lease on the engine."""
        return len(self._by_engine.get(engine, {}))
