"""Which message runs next, and how much each sender may send: the engine's decisions, without I/O.

    sender ──credit──► received ──► waits for a slot ──► started ──► answered
              └──────────── open: granted and not started ─────────┘

Slots: as many handlers run at once as the stream says. A free slot goes to a waiting message of the backlog first,
then to the peers in the order in which they asked; but who has waited for ``OVERTAKEN_FOR_S`` is overtaken no more.

A *suspect*, which may have ended an engine, runs alone, so that nothing else is blamed when it does so again. What came
before it goes first, what came after it does not: no slot is given out until all are free, then the suspect has the
engine. From when it waits nobody gets credit, so that only what was granted before can come behind it; and what waits
for a moment behind a suspect that waits, or runs, is sent elsewhere. So nobody starves, whoever comes most often. And a
suspect that has waited for a few handler times is sent elsewhere itself: perhaps one of the handlers never ends.

Credit, in messages. The *window* is what ``prefetch_s`` of measured handler time can hold, at least one message; before
anything was measured, one for each slot.

- What is open at active peers together stays within the window; they share it by deficit round robin in bytes, so that
  a source of small messages does not starve because its neighbour sends large ones.
- A peer that has credit and is quiet for a moment is idle: it keeps what it has, and that counts no more.
- A new peer has one message at once. So has, where the window is not smaller than there are active peers, who has used
  up all it had, whatever others have left: so no more than twice the window is ever open.
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

from harmonicio.engine.peer import Peer

#: More messages are never open, however fast the handler is.
LARGEST_WINDOW = 10_000
#: The backlog goes before what a connector has sent for this long, so that credit is honoured in bounded time.
OVERTAKEN_FOR_S = 1.0
#: In the round robin nobody's messages count for less than this fraction of the largest ones.
SMALLEST_FRACTION = 1 / 16
#: How long every slot may be held by what was emitted before those who wait are sent elsewhere.
EMITTING_GRACE_S = 0.25
#: How long a suspect may have the engine, or wait for it, before those who wait behind it are sent elsewhere.
ALONE_GRACE_S = 0.25
#: How long a suspect waits until all slots are free, or so many times what a handler takes: one that does not end must
#: not keep all other slots from work.
SUSPECT_GRACE_S, SUSPECT_MEANS = 1.0, 3
#: For so many times as long as it has waited in vain no suspect may wait again: what holds a slot will hold it longer.
SUSPECTS_REST = 10
#: So many idle peers are looked at each time, more only so often that each costs next to nothing.
FEW_PEERS, LOOK_AT_ONE_S = 64, 20e-6
_SHORTEST_HANDLER_S = 1e-7
#: What one measured message changes of the mean.
_WEIGHT = 0.2


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
        self._resting: dict[Peer, None] = {}  # Idle when they were looked at last.
        self._look_at_resting_at = -math.inf
        # Each with the time since when it waits, which is their order.
        self._waiting: deque[tuple[Any, float]] = deque()
        self._waiting_from_backlog: deque[tuple[Any, float]] = deque()
        self._suspects: deque[tuple[Any, float]] = deque()
        self.is_alone = False  # While a suspect has the engine.
        self._alone_at = math.inf  # Since when one has it, or waits for it.
        self._no_suspect_until = -math.inf
        self.free_slots = concurrency
        self.depth = 0
        self.handler_s: float | None = None
        self.is_draining = self.has_hungry_peers = False
        self._emitting, self._clogged_at = 0, math.inf

    def __repr__(self) -> str:
        return (
            f"<EngineLoop: {self.free_slots} of {self._concurrency} slots free, {len(self._waiting)} waiting, "
            f"{len(self._waiting_from_backlog)} from the backlog, depth {self.depth}, {len(self._peers)} busy peers>"
        )

    # ── slots ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_backlog_waiting(self) -> bool:
        """Whether a message of the backlog waits for a slot."""
        return bool(self._waiting_from_backlog)

    def is_wanted(self, *, is_owed: bool) -> bool:
        """Whether somebody waits for whom a slot is given back early; the backlog does not, where it is owed."""
        return bool(self._suspects or (self._waiting_from_backlog and not is_owed))

    @property
    def has_backlog(self) -> bool:
        """Whether messages wait in the backlog, or here from it: then connectors get no new credit."""
        return bool(self.depth or self._waiting_from_backlog)

    @property
    def is_kept_for_suspect(self) -> bool:
        """Whether a suspect has the engine, or waits for it."""
        return self.is_alone or bool(self._suspects)

    def take_slot(self) -> bool:
        """Take a free slot, if there is one."""
        if not self.free_slots or self.is_kept_for_suspect:
            return False
        self.free_slots -= 1
        return True

    def take_all_slots(self, now: float) -> bool:
        """Take a slot for a suspect, and the engine with it, if nothing runs."""
        if self.free_slots < self._concurrency or self.is_kept_for_suspect:
            return False
        self._begin_alone(now)
        return True

    def wait_for_slot(self, waiter: Any, since: float, *, is_backlog: bool) -> None:
        """Queue for the next slot that is freed; ``since`` may lie back for what has waited behind another message."""
        if is_backlog:
            self._waiting_from_backlog.append((waiter, since))
        else:
            insort(self._waiting, (waiter, since), key=itemgetter(1))

    def wait_for_all_slots(self, waiter: Any, now: float) -> None:
        """Queue a suspect until nothing runs."""
        if not self.is_kept_for_suspect:
            self._alone_at = now
        self._suspects.append((waiter, now))

    def is_backlog_next(self, now: float) -> bool:
        """Whether a slot that is freed goes to a message of the backlog, if not to a suspect."""
        is_overtaken_enough = bool(self._waiting) and now - self._waiting[0][1] >= OVERTAKEN_FOR_S
        return bool(self._waiting_from_backlog) and not is_overtaken_enough

    def free_unwanted_slot(self) -> bool:
        """Give a slot back if nobody waits for one, nor has the engine alone; return whether that was so."""
        if self.is_alone or self._suspects or self._waiting or self._waiting_from_backlog:
            return False
        self.free_slots += 1
        return True

    def free_slot(self, now: float) -> list[Any]:
        """Give a slot back; return the waiters who have one now: one at most, unless a suspect had them all."""
        self.free_slots += 1
        if self.is_alone:
            self.is_alone, self._alone_at = False, now if self._suspects else math.inf
        waiters = []
        while self.free_slots and not self.is_alone and (waiter := self._take_next(now)) is not None:
            waiters.append(waiter)
        return waiters

    def _take_next(self, now: float) -> Any | None:
        """Take a slot for the next in turn, and return it; None when nobody waits, or a suspect waits for all slots."""
        waiting = self._waiting_from_backlog if self.is_backlog_next(now) else self._waiting
        if self._suspects and (not waiting or self._suspects[0][1] < waiting[0][1]):
            if self.free_slots < self._concurrency:
                return None
            self._begin_alone(now)
            return self._suspects.popleft()[0]
        if not waiting:
            return None
        self.free_slots -= 1
        return waiting.popleft()[0]

    def _begin_alone(self, now: float) -> None:
        self.free_slots -= 1
        self.is_alone, self._alone_at = True, now

    def drain(self) -> list[Any]:
        """Give no more credit; return the waiters, none of whom will have a slot."""
        self.is_draining = True
        return self._dismiss(self._suspects, self._waiting_from_backlog, self._waiting)

    @staticmethod
    def _dismiss(*queues: deque[tuple[Any, float]]) -> list[Any]:
        waiters = [waiter for queue in queues for waiter, _ in queue]
        for queue in queues:
            queue.clear()
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

    def is_clogged(self, now: float, *, is_backlog: bool, is_suspect: bool = False) -> bool:
        """Whether messages had better go elsewhere than wait here.

        So it is when a suspect has kept them waiting for a moment, and for suspects when one has waited here in vain.
        All slots may also wait for what was emitted; then those of the backlog can wait.
        """
        if is_suspect and now < self._no_suspect_until:
            return True
        return now >= self._alone_at + ALONE_GRACE_S or (not is_backlog and now >= self._clogged_at)

    def turn_away(self, now: float) -> list[Any]:
        """Return the waiters that will have no slot, because they had better go elsewhere."""
        if self.is_clogged(now, is_backlog=True):
            next_away_at = self._next_away_at()
            if now >= next_away_at:
                self._no_suspect_until = now + SUSPECTS_REST * (now - self._alone_at)
            first = [self._suspects.popleft()] if now < next_away_at < math.inf else []
            waiters = self._dismiss(self._suspects, self._waiting_from_backlog, self._waiting)
            self._suspects.extend(first)
            if not self.is_kept_for_suspect:
                self._alone_at = math.inf
            return waiters
        return self._dismiss(self._waiting) if self.is_clogged(now, is_backlog=False) else []

    def _next_away_at(self) -> float:
        """Return when the suspect that is next has waited for too long; infinity when none is next."""
        if self.is_alone or not self._suspects:
            return math.inf
        return self._alone_at + max(SUSPECT_GRACE_S, SUSPECT_MEANS * (self.handler_s or 0.0))

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
        if peer in self._resting:
            del self._resting[peer]
        elif peer in self._peers:
            self._peers.remove(peer)
        if peer.is_backlog:
            self.depth = 0

    def grants(self, now: float, asking: Peer | None = None) -> tuple[list[Peer], float | None]:
        """Raise the totals of those who shall have more; who is ``asking`` is not idle, whatever it was before.

        Returns:
            The peers to tell, and when to ask again although nothing happens, if that is needed.
        """
        if asking is not None and asking in self._resting:  # Also when there is nothing now: the next look finds it.
            del self._resting[asking]
            self._peers.append(asking)
        self.has_hungry_peers = self.is_kept_for_suspect
        if self.is_draining:
            return [], None
        if self.is_kept_for_suspect:
            return [], _next(now, self._alone_at + ALONE_GRACE_S, self._next_away_at(), self._clogged_at)
        active = self._active(now)
        told = [peer for peer in self._peers if peer.is_backlog and self._grant_master(peer, active)]
        if self.has_backlog or self._emitting == self._concurrency:
            self.has_hungry_peers = not self.has_backlog
            return told, _next(now, self._clogged_at)
        told += self._grant_connectors(active, now)
        hungry = [peer for peer in active if not peer.unused and peer not in told]
        self.has_hungry_peers = bool(hungry)
        return told, self._look_again_at(active) if hungry else None

    def _active(self, now: float) -> list[Peer]:
        """Return the connectors that compete for the window; thousands of idle ones are looked at now and then only."""
        if self._resting and (len(self._resting) <= FEW_PEERS or now >= self._look_at_resting_at):
            self._look_at_resting_at = now + len(self._resting) * LOOK_AT_ONE_S
            for peer in [peer for peer in self._resting if peer.observe(now)]:
                del self._resting[peer]
                self._peers.append(peer)
        for peer in self._peers:
            peer.observe(now)
        idle = [peer for peer in self._peers if not (peer.is_backlog or peer.is_active(now))]
        for peer in idle:
            self._peers.remove(peer)
            self._resting[peer] = None
        return [peer for peer in self._peers if not peer.is_backlog]

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
        if not active:
            return []
        sizes, share_bytes = _counted_sizes(active), self._share_bytes(active)
        fair_bytes = self.window / sum(1.0 / size for size in sizes)
        for peer, size in zip(active, sizes, strict=True):  # The same bytes for all, in whole messages.
            peer.window, peer.window_bytes = max(1, int(fair_bytes / size)), share_bytes
        more = self._share_messages(active, sizes, fair_bytes)
        # The master's share stays the master's; what is open there beyond takes nothing from the connectors.
        room_bytes = self._budget_bytes - share_bytes - sum(peer.open_bytes for peer in active)
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

    def _share_messages(self, active: list[Peer], sizes: list[float], fair_bytes: float) -> dict[Peer, int]:
        """Return how many more messages each peer may send: deficit round robin over those that need them."""
        # Credit that others have and do not use cannot be taken back: who has none is not left waiting for that.
        is_one_little = len(active) <= self.window
        more = {peer: 1 for peer in active if not peer.credit.messages_total or (is_one_little and not peer.open)}
        room = self.window - sum(peer.open for peer in active) - len(more)
        if room <= 0:
            return more
        # What is less than a quarter of a window is not worth a frame yet.
        hungry = {
            peer: size
            for peer, size in zip(active, sizes, strict=True)
            if 2 * peer.unused <= peer.window and 4 * (peer.window - peer.open) >= peer.window
        }
        quantum = max(fair_bytes, *sizes, 1.0)
        last: Peer | None = None
        while room > 0 and hungry:
            for peer, size in list(hungry.items()):
                wanted = peer.window - peer.open - more.get(peer, 0)
                peer.deficit_bytes = min(peer.deficit_bytes, quantum) + quantum
                count = max(0, min(room, wanted, int(peer.deficit_bytes / size)))
                peer.deficit_bytes -= count * size
                if count:
                    more[peer] = more.get(peer, 0) + count
                    room -= count
                    last = peer
                if count >= wanted:
                    del hungry[peer]
                    peer.deficit_bytes = 0.0
                if room <= 0:
                    break
        if last is not None:  # The next round begins behind the one who had the last turn.
            self._peers.rotate(-self._peers.index(last) - 1)
        return more

    def _look_again_at(self, active: list[Peer]) -> float | None:
        """Return when the first peer that holds unused credit will count as idle."""
        return min((peer.idle_at for peer in active if peer.unused and not peer.credit.outstanding), default=None)


def _counted_sizes(peers: list[Peer]) -> list[float]:
    """Return the mean message size of each peer, the smallest ones raised, so that no ratio is beyond bounds."""
    sizes = [peer.mean_bytes for peer in peers]
    smallest = max(sizes) * SMALLEST_FRACTION
    return [max(size, smallest) for size in sizes]


def _next(now: float, *due_at: float) -> float | None:
    """Return the first of these times that is still to come."""
    return min((at for at in due_at if now < at < math.inf), default=None)
