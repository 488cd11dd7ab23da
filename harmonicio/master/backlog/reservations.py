"""Which engine holds which message, and until when.

Each reservation has a token that is never used again. Whoever ends one must present it; the second one who tries finds
nothing, and so a late outcome has no effect. Expiries lie in a heap, whose stale tokens are cleared out when they
prevail.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from harmonicio.master.backlog.entry import Entry, Reservation

_STALE_ALLOWED = 1024


class Reservations:
    """All reservations that have not ended."""

    def __init__(self) -> None:
        self._by_token: dict[int, Reservation] = {}
        self._by_engine: dict[str, set[int]] = {}
        self._expiries: list[tuple[float, int]] = []
        self._next_token = 1

    def __len__(self) -> int:
        return len(self._by_token)

    def __repr__(self) -> str:
        return f"<Reservations: {len(self._by_token)} held by {len(self._by_engine)} engines>"

    def make(self, entry: Entry, engine: str, expires_at: float) -> Reservation:
        """Reserve an entry for an engine."""
        reservation = Reservation(self._next_token, entry, engine, entry.attempts + 1, expires_at)
        self._next_token += 1
        self._by_token[reservation.token] = reservation
        self._by_engine.setdefault(engine, set()).add(reservation.token)
        heappush(self._expiries, (expires_at, reservation.token))
        if len(self._expiries) > 2 * len(self._by_token) + _STALE_ALLOWED:
            self._expiries = [(held.expires_at, token) for token, held in self._by_token.items()]
            heapify(self._expiries)
        return reservation

    def end(self, reservation: Reservation) -> bool:
        """End a reservation; False when it had ended before."""
        if self._by_token.pop(reservation.token, None) is None:
            return False
        held = self._by_engine[reservation.engine]
        held.discard(reservation.token)
        if not held:
            del self._by_engine[reservation.engine]
        return True

    def end_engine(self, engine: str) -> list[Reservation]:
        """End what an engine holds; return it in the order in which it was reserved."""
        return self._end_all([self._by_token[token] for token in sorted(self._by_engine.get(engine, ()))])

    def end_where(self, is_meant: Callable[[Entry], bool]) -> list[Reservation]:
        """End the reservations of all entries that are meant."""
        return self._end_all([held for held in self._by_token.values() if is_meant(held.entry)])

    def end_expired(self, now: float) -> list[Reservation]:
        """End the reservations whose time is over."""
        over = []
        while self._expiries and self._expiries[0][0] <= now:
            reservation = self._by_token.get(heappop(self._expiries)[1])
            if reservation is not None:
                over.append(reservation)
        return self._end_all(over)

    def _end_all(self, reservations: list[Reservation]) -> list[Reservation]:
        for reservation in reservations:
            self.end(reservation)
        return reservations
