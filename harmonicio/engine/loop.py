"""Which message runs next, and how much each sender may send: the engine's decisions, without I/O.

    sender ──credit──► received ──► waits for a slot ──► started ──► answered
              └──────────── open: granted and not started ─────────┘

Slots: as many handlers run at once as the stream says. A free slot goes to a waiting message of the backlog first,
then to the peers in the order in which they asked; but who has waited for ``OVERTAKEN_FOR_S`` is overtaken no more.

Credit, in messages. The *window* is what ``prefetch_s`` of measured handler time can hold, at least one message; before
anything was measured, one for each slot.

- What is open at active peers together stays within the window; they share it by deficit round robin in bytes, so that
  a source of small messages does not starve because its neighbour sends large ones.
- A peer that has credit and is quiet for a moment is idle: it keeps what it has, and that counts no more.
- A new peer has one message at once.
- The master has one message beyond what it has started. While messages wait in its backlog, or one of them waits here
  for a slot, connectors get no new credit, and what they leave of the window is the master's.
- When every slot is held by a message that waits for what it emitted, connectors get no credit, and after a moment what
  waits here from them is refused: it may be what a slot waits for, by way of other engines that emit into this one.

Credit in bytes follows the engine's byte budget, in equal shares, one of them the master's. It reserves no memory.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from operator import itemgetter
from typing import Any

from harmonicio.wire.credit import ReceiverCredit

#: More messages are never open, however fast the handler is.
LARGEST_WINDOW = 10_000
#: A peer that has not used its credit for this long is idle.
IDLE_AFTER_S = 0.02
#: The backlog goes before what a connector has sent for this long, so that credit is honoured in bounded time.
OVERTAKEN_FOR_S = 1.0
#: In the round robin nobody's messages count for less than this fraction of the largest ones.
SMALLEST_FRACTION = 1 / 16
#: How long every slot may be held by what was emitted before those who wait are sent elsewhere.
EMITTING_GRACE_S = 0.25
_SHORTEST_HANDLER_S = 1e-7
#: What one measured message changes of the mean.
_WEIGHT = 0.2


class Peer:
    """One connection that brings messages.

    Attributes:
        credit: What was granted and received; counted by the session of the connection.
        started: Messages that no longer wait, those included that were refused.
        window: Messages that may be open, as the last review decided; ``window_bytes`` likewise.
    """

    __slots__ = (
        "_seen",
        "active_at",
        "credit",
        "deficit_bytes",
        "is_backlog",
        "name",
        "started",
        "window",
        "window_bytes",
    )

    def __init__(self, name: str, *, is_backlog: bool = False) -> None:
        self.name = name
        self.is_backlog = is_backlog
        self.credit = ReceiverCredit()
        self.started = 0
        self.window = 1
        self.window_bytes = 0
        self.active_at = 0.0
        self.deficit_bytes = 0.0
        self._seen = (0, 0, 0)

    def __repr__(self) -> str:
        return f"<Peer {self.name}: {self.open} open, {self.waiting} waiting of {self.credit!r}>"

    @property
    def unused(self) -> int:
        """Messages that the peer may still send."""
        return max(0, self.credit.messages_total - self.credit.received)

    @property
    def open(self) -> int:
        """Messages granted and not started."""
        return max(0, self.credit.messages_total - self.started)

    @property
    def open_bytes(self) -> int:
        """Payload bytes granted and not answered."""
        return max(0, self.credit.bytes_total - self.credit.answered_bytes)

    @property
    def waiting(self) -> int:
        """Messages received and not started."""
        return self.credit.received - self.started

    @property
    def is_credit_low(self) -> bool:
        """Whether half of the window is used up, in messages or in bytes, so that more should be told."""
        credit = self.credit
        return (
            2 * (credit.messages_total - credit.received) <= self.window
            or 2 * (credit.bytes_total - credit.received_bytes) <= self.window_bytes
        )

    @property
    def mean_bytes(self) -> float:
        """Size of this peer's messages so far, at least one byte."""
        credit = self.credit
        return max(1.0, credit.received_bytes / credit.received) if credit.received else 1.0

    def observe(self, now: float) -> None:
        """Take note of whether anything has happened since the last look."""
        seen = (self.credit.received, self.started, self.credit.answered)
        if seen != self._seen:
            self._seen = seen
            self.active_at = now

    def is_active(self, now: float) -> bool:
        """Whether this peer competes for the window: it has work here, has no credit, or was busy a moment ago."""
        return self.credit.outstanding > 0 or self.unused == 0 or now - self.active_at < IDLE_AFTER_S


class EngineLoop:
    """The engine's slots and credit.

    Args:
        concurrency: Handlers that run at the same time.
        prefetch_s: Seconds of handler time that may wait here.
        budget_bytes: Payload bytes that the engine may hold.
    """

    def __init__(self, concurrency: int, prefetch_s: float, budget_bytes: int) -> None:
        self._concurrency = concurrency
        self._prefetch_s = prefetch_s
        self._budget_bytes = budget_bytes
        self._peers: deque[Peer] = deque()
        self._waiting: deque[tuple[Any, float]] = deque()  # With the time since when, which is their order.
        self._waiting_from_backlog: deque[Any] = deque()
        self.free_slots = concurrency
        self.depth = 0
        self.handler_s: float | None = None
        self.is_draining = False
        self.has_hungry_peers = False
        self._emitting = 0
        self._clogged_at = math.inf

    def __repr__(self) -> str:
        return (
            f"<EngineLoop: {self.free_slots} of {self._concurrency} slots free, {len(self._waiting)} waiting, "
            f"{len(self._waiting_from_backlog)} from the backlog, depth {self.depth}, {len(self._peers)} peers>"
        )

    # ── slots ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_backlog_waiting(self) -> bool:
        """Whether a message of the backlog waits for a slot."""
        return bool(self._waiting_from_backlog)

    @property
    def has_backlog(self) -> bool:
        """Whether messages wait in the backlog, or here from it: then connectors get no new credit."""
        return bool(self.depth or self._waiting_from_backlog)

    def take_slot(self) -> bool:
        """Take a free slot, if there is one."""
        if not self.free_slots:
            return False
        self.free_slots -= 1
        return True

    def wait_for_slot(self, waiter: Any, since: float, *, is_backlog: bool) -> None:
        """Queue for the next slot that is freed; ``since`` may lie back for what has waited behind another message."""
        if is_backlog:
            self._waiting_from_backlog.append(waiter)
        else:
            insort(self._waiting, (waiter, since), key=itemgetter(1))

    def is_backlog_next(self, now: float) -> bool:
        """Whether a slot that is freed goes to a message of the backlog."""
        is_overtaken_enough = bool(self._waiting) and now - self._waiting[0][1] >= OVERTAKEN_FOR_S
        return bool(self._waiting_from_backlog) and not is_overtaken_enough

    def free_slot(self, now: float) -> Any | None:
        """Give a slot back; return the waiter whose it is now, if there is one."""
        if self.is_backlog_next(now):
            return self._waiting_from_backlog.popleft()
        if self._waiting:
            return self._waiting.popleft()[0]
        self.free_slots += 1
        return None

    def drain(self) -> list[Any]:
        """Give no more credit; return the waiters, none of whom will have a slot."""
        self.is_draining = True
        waiters = [*self._waiting_from_backlog, *(waiter for waiter, _ in self._waiting)]
        self._waiting_from_backlog.clear()
        self._waiting.clear()
        return waiters

    def emission_begun(self, now: float) -> float | None:
        """A slot waits for what its handler emitted; return when to ask for :meth:`grants` if nothing changes."""
        self._emitting += 1
        if self._emitting < self._concurrency:
            return None
        self._clogged_at = now + EMITTING_GRACE_S
        return self._clogged_at

    def emission_ended(self) -> None:
        """What was emitted is safe, or given up."""
        self._emitting -= 1
        self._clogged_at = math.inf

    def is_clogged(self, now: float) -> bool:
        """Whether all slots have waited for what was emitted for so long that messages had better go elsewhere."""
        return now >= self._clogged_at

    def turn_away(self, now: float) -> list[Any]:
        """Return the waiters that will have no slot, because the engine is clogged; those of the backlog can wait."""
        if not self.is_clogged(now):
            return []
        waiters = [waiter for waiter, _ in self._waiting]
        self._waiting.clear()
        return waiters

    def measured(self, count: int, seconds: float) -> None:
        """Take note that ``count`` messages took ``seconds`` of one slot."""
        if count <= 0:
            return
        mean = max(seconds / count, _SHORTEST_HANDLER_S)
        if self.handler_s is None:
            self.handler_s = mean
        else:
            self.handler_s += (mean - self.handler_s) * (1.0 - (1.0 - _WEIGHT) ** min(count, 100))

    # ── credit ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def window(self) -> int:
        """Messages that may be open at the same time."""
        if self.handler_s is None:
            return self._concurrency
        return max(1, min(LARGEST_WINDOW, int(self._prefetch_s * self._concurrency / self.handler_s)))

    def join(self, peer: Peer, now: float) -> None:
        """Serve this peer, too; it takes its place at the end of the round."""
        peer.active_at = now
        self._peers.append(peer)

    def leave(self, peer: Peer) -> None:
        """Forget a peer. Without its connection nothing is known of the backlog."""
        if peer in self._peers:
            self._peers.remove(peer)
        if peer.is_backlog:
            self.depth = 0

    def grants(self, now: float) -> tuple[list[Peer], float | None]:
        """Raise the totals of those who shall have more.

        Returns:
            The peers to tell, and when to ask again although nothing happens, if that is needed.
        """
        self.has_hungry_peers = False
        if self.is_draining:
            return [], None
        for peer in self._peers:
            peer.observe(now)
        active = [peer for peer in self._peers if not peer.is_backlog and peer.is_active(now)]
        masters = [peer for peer in self._peers if peer.is_backlog]
        told = [peer for peer in masters if self._grant_master(peer, active)]
        if self.has_backlog:
            return told, None
        if self._emitting == self._concurrency:
            self.has_hungry_peers = True
            return told, None
        told += self._grant_connectors(active, now)
        hungry = [peer for peer in active if not peer.unused and peer not in told]
        self.has_hungry_peers = bool(hungry)
        return told, self._look_again_at(active) if hungry else None

    def _grant_master(self, peer: Peer, active: list[Peer]) -> bool:
        window = max(1, self.window - sum(each.open for each in active)) if self.depth else 1
        peer.window, peer.window_bytes = window, self._share_bytes(active)
        if not peer.is_credit_low:
            return False
        # Messages that run hold up none that a free slot could run: their bytes count only while something waits.
        taken_bytes = peer.credit.answered_bytes if peer.waiting > 0 else peer.credit.received_bytes
        return peer.credit.grant(peer.started + window, taken_bytes + peer.window_bytes)

    def _share_bytes(self, active: list[Peer]) -> int:
        """Return one share of the byte budget: each active connector has one, and the master, present or not."""
        return self._budget_bytes // (max(1, len(active)) + 1)

    def _grant_connectors(self, active: list[Peer], now: float) -> list[Peer]:
        self._set_windows(active)
        more = self._share_messages(active)
        # The master's share stays the master's; what is open there beyond takes nothing from the connectors.
        room_bytes = self._budget_bytes - self._share_bytes(active) - sum(peer.open_bytes for peer in active)
        told = []
        for peer in active:
            messages, size_bytes = more.get(peer, 0), 0
            if peer.is_credit_low and (messages or peer.unused):
                size_bytes = max(0, min(peer.window_bytes - peer.open_bytes, room_bytes))
            if messages or size_bytes:
                room_bytes -= size_bytes
                told.append(peer)
                peer.active_at = now
                # A message beyond the credit's bytes, or beyond its count, has left the totals behind.
                peer.credit.grant(
                    max(peer.credit.messages_total, peer.started) + messages,
                    max(peer.credit.bytes_total, peer.credit.answered_bytes) + size_bytes,
                )
        return told

    def _set_windows(self, active: list[Peer]) -> None:
        """Set how much may be open at each peer: the same bytes for all, in whole messages."""
        if not active:
            return
        sizes = _counted_sizes(active)
        fair_bytes = self.window / sum(1.0 / size for size in sizes)
        for peer, size in zip(active, sizes, strict=True):
            peer.window = max(1, int(fair_bytes / size))
            peer.window_bytes = self._share_bytes(active)

    def _share_messages(self, active: list[Peer]) -> dict[Peer, int]:
        """Return how many more messages each peer may send: deficit round robin over those that need them."""
        more = {peer: 1 for peer in active if not peer.credit.messages_total}
        room = self.window - sum(peer.open for peer in active) - len(more)
        if not active or room <= 0:
            return more
        sizes = dict(zip(active, _counted_sizes(active), strict=True))
        quantum = max(self.window / sum(1.0 / size for size in sizes.values()), *sizes.values(), 1.0)
        # What is less than a quarter of a window is not worth a frame yet.
        hungry = [
            peer for peer in active if 2 * peer.unused <= peer.window and 4 * (peer.window - peer.open) >= peer.window
        ]
        last: Peer | None = None
        while room > 0 and hungry:
            for peer in list(hungry):
                wanted = peer.window - peer.open - more.get(peer, 0)
                peer.deficit_bytes = min(peer.deficit_bytes, quantum) + quantum
                count = max(0, min(room, wanted, int(peer.deficit_bytes / sizes[peer])))
                peer.deficit_bytes -= count * sizes[peer]
                if count:
                    more[peer] = more.get(peer, 0) + count
                    room -= count
                    last = peer
                if count >= wanted:
                    hungry.remove(peer)
                    peer.deficit_bytes = 0.0
                if room <= 0:
                    break
        if last is not None:  # The next round begins behind the one who had the last turn.
            self._peers.rotate(-self._peers.index(last) - 1)
        return more

    def _look_again_at(self, active: list[Peer]) -> float | None:
        """Return when the first peer that holds unused credit will count as idle."""
        quiet = [peer.active_at for peer in active if peer.unused and not peer.credit.outstanding]
        return min(quiet) + IDLE_AFTER_S if quiet else None


def _counted_sizes(peers: list[Peer]) -> list[float]:
    """Return the mean message size of each peer, the smallest ones raised, so that no ratio is beyond bounds."""
    largest = max(peer.mean_bytes for peer in peers)
    return [max(peer.mean_bytes, largest * SMALLEST_FRACTION) for peer in peers]
