"""Which engine holds which message, and until when.

Each reservation has a token that is never used again. Whoever ends one must present it; the second one who tries finds
nothing, and so a late outcome has no effect.

An engine that completes messages is alive, and so is one whose handler has just returned: what it holds counts from
then, because a message that was pushed ahead waits there for the handler of another, which may have come from a
connector, and keeping a message has a time of its own. Who is frozen completes nothing. While a
payload is being sent, nothing expires: the connection sees to it that this goes on, or ends. Expiries
lie in a heap as they were when they were made; one that comes to the top is looked at again, so that an answer costs
the same however much its engine holds. Stale tokens are cleared out when they prevail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf

from harmonicio.master.backlog.entry import Entry, Reservation

_STALE_ALLOWED = 1024


def holder_of(engine: str, connection: int) -> str:
    """Return who holds what is sent over one connection of an engine."""
    return f"{engine}#{connection}"


def engine_of(holder: str) -> str:
    """Return the engine that a holder is a connection of."""
    return holder.partition("#")[0]


class Reservations:
    """All reservations that have not ended."""

    def __init__(self) -> None:
        self._by_token: dict[int, Reservation] = {}
        self._by_holder: dict[str, set[int]] = {}
        #: How much each engine holds, over whatever connection; and when it last completed something.
        self._counts: Counter[str] = Counter()
        self._progressed_at: dict[str, float] = {}
        #: Those whose payload is on its way, and since when others have been with their engine.
        self._sending: set[int] = set()
        self._sent_at: dict[int, float] = {}
        self._expiries: list[tuple[float, int]] = []
        self._next_token = 1

    def __len__(self) -> int:
        return len(self._by_token)

    def __repr__(self) -> str:
        return f"<Reservations: {len(self._by_token)} held by {len(self._counts)} engines>"

    def make(self, entry: Entry, holder: str, now: float, timeout_s: float) -> Reservation:
        """Reserve an entry for an engine, over one connection of it."""
        reservation = Reservation(self._next_token, entry, holder, entry.attempts + 1, now, timeout_s)
        self._next_token += 1
        self._by_token[reservation.token] = reservation
        self._by_holder.setdefault(holder, set()).add(reservation.token)
        self._counts[engine_of(holder)] += 1
        heappush(self._expiries, (now + timeout_s, reservation.token))
        if len(self._expiries) > 2 * len(self._by_token) + _STALE_ALLOWED:
            self._expiries = [(self.expires_at(held), token) for token, held in self._by_token.items()]
            heapify(self._expiries)
        return reservation

    def progressed(self, engine: str, now: float) -> None:
        """The engine has completed something, whosever it was: all that it holds counts from now."""
        if engine in self._counts:
            self._progressed_at[engine] = now

    def sending(self, reservation: Reservation) -> bool:
        """The payload is on its way, however long that takes; False when the reservation has ended."""
        if reservation.token not in self._by_token:
            return False
        self._sending.add(reservation.token)
        return True

    def sent(self, reservation: Reservation, now: float) -> None:
        """The engine has the payload: the time counts from now."""
        self._sending.discard(reservation.token)
        if reservation.token in self._by_token:
            self._sent_at[reservation.token] = now
            heappush(self._expiries, (now + reservation.timeout_s, reservation.token))

    def expires_at(self, reservation: Reservation) -> float:
        """Return when a reservation that has not ended does so, unless its engine completes something before."""
        if reservation.token in self._sending:
            return inf
        begun_at = self._sent_at.get(reservation.token, reservation.made_at)
        progressed_at = self._progressed_at.get(engine_of(reservation.holder), begun_at)
        return max(begun_at, progressed_at) + reservation.timeout_s

    def end(self, reservation: Reservation) -> bool:
        """End a reservation; False when it had ended before."""
        if self._by_token.pop(reservation.token, None) is None:
            return False
        self._sending.discard(reservation.token)
        self._sent_at.pop(reservation.token, None)
        held = self._by_holder[reservation.holder]
        held.discard(reservation.token)
        if not held:
            del self._by_holder[reservation.holder]
        engine = engine_of(reservation.holder)
        self._counts[engine] -= 1
        if not self._counts[engine]:
            del self._counts[engine]
            self._progressed_at.pop(engine, None)
        return True

    def end_holder(self, holder: str) -> list[tuple[Reservation, bool]]:
        """End what was for a connection; return it in the order in which it was reserved, and whether it was sent."""
        tokens = sorted(self._by_holder.get(holder, ()))
        ended = [(self._by_token[token], token in self._sending or token in self._sent_at) for token in tokens]
        self._end_all([reservation for reservation, _ in ended])
        return ended

    def end_where(self, is_meant: Callable[[Entry], bool]) -> list[Reservation]:
        """End the reservations of all entries that are meant."""
        return self._end_all([held for held in self._by_token.values() if is_meant(held.entry)])

    def end_expired(self, now: float) -> list[Reservation]:
        """End the reservations whose time is over."""
        over = []
        while self._expiries and self._expiries[0][0] <= now:
            reservation = self._by_token.get(heappop(self._expiries)[1])
            if reservation is None:
                continue
            expires_at = self.expires_at(reservation)
            if expires_at <= now:
                self.end(reservation)
                over.append(reservation)
            elif expires_at < inf:  # What is being sent comes back by :meth:`sent`.
                heappush(self._expiries, (expires_at, reservation.token))
        return over

    def _end_all(self, reservations: list[Reservation]) -> list[Reservation]:
        for reservation in reservations:
            self.end(reservation)
        return reservations
