"""The loop under its lock: handler slots and credit for the threads that need them.

    acquire   the calling thread waits for a slot and runs the handler itself
    submit    a task waits for a slot and runs in a thread of the pool
    review    peers get the credit that they shall have now

Decided under the lock, acted on outside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from harmonicio.control.handler_board import HandlerBoard
from harmonicio.control.messages import RunningMessage
from harmonicio.engine.flusher import Flusher
from harmonicio.engine.loop import ALONE_GRACE_S, EngineLoop
from harmonicio.engine.peer import Peer
from harmonicio.transport.thread_pool import ThreadPool

#: Threads beyond the slots, for those that still send the outcome of what has given its slot back.
_SPARE_THREADS = 4
#: A hand-over to another thread costs a tenth of this.
HAND_OVER_ABOVE_S = 0.0002
#: While such a handler runs, its connection should be read from: it breaks when it is not for many seconds.
SLOW_HANDLER_S = 0.01
#: From this size on, receiving the next message while a handler runs is worth a hand-over.
OVERLAP_BYTES = 512 * 1024


class Slot:
    """The right to run one handler; says which message that is, for the reports and on the board.

    between messages ──begin──► the handler runs ──handler_returned──► what came of it is being kept ──end──► between …
                                       ▲                                           │
                                       └──────────────handler_called───────────────┘

    Both say for which ``turn`` they are: a plugin may call the handler in a thread and give that up, and what is said
    too late, when the slot is another message's, changes nothing.
    """

    __slots__ = ("_board", "_row", "has_returned", "message_id", "since", "turn")

    def __init__(self, row: int) -> None:
        self.message_id = ""
        self.since = 0.0
        self.has_returned = False
        self.turn = 0
        self._row = row
        self._board: HandlerBoard | None = None

    def begin(self, message_id: str, now: float) -> None:
        """The handler is called with this message next; it is ``now`` by the monotonic clock."""
        self.turn += 1
        self.since = now
        self.has_returned = False
        self.message_id = message_id
        if self._board is not None:
            self._board.begin(self._row, message_id, now)

    def handler_called(self, turn: int) -> None:
        """A plugin calls the handler; the first call follows :meth:`begin`, which has said so."""
        if turn == self.turn and self.has_returned:
            self.begin(self.message_id, time.monotonic())
            self.turn = turn  # It is the same message's.

    def handler_returned(self, turn: int) -> float:
        """The handler has returned or raised; return the monotonic time of that. Saying so again changes nothing."""
        if turn == self.turn and not self.has_returned:
            self.since = time.monotonic()
            self.has_returned = True
            if self._board is not None:
                self._board.returned(self._row, self.message_id, self.since)
        return self.since

    def end(self) -> None:
        """The message is over, and the handler is not called again at once."""
        self.turn += 1
        self.message_id = ""
        if self._board is not None:
            self._board.end(self._row)

    def write_to(self, board: HandlerBoard) -> None:
        """Say on this board what runs, from now on."""
        self._board = board

    def __repr__(self) -> str:
        return f"<Slot {self.message_id or 'between messages'}>"


class Waiter(Protocol):
    """Who waits for a slot; exactly one of the two is called, outside the lock, and must not block."""

    def granted(self, slot: Slot) -> None: ...

    def refused(self) -> None: ...


class Session(Protocol):
    """The connection of a peer, as far as credit and flushing need it."""

    @property
    def peer(self) -> Peer: ...

    @property
    def flush_due_at(self) -> float | None: ...

    def checkpoint(self) -> None: ...

    def cut(self) -> None: ...


class _WaitingThread:
    """A thread that waits until it has a slot or will have none."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()
        self._slot: Slot | None = None

    def granted(self, slot: Slot) -> None:
        self._slot = slot
        self._gate.release()

    def refused(self) -> None:
        self._gate.release()

    def wait(self) -> Slot | None:
        self._gate.acquire()
        return self._slot


class Slots:
    """Hands out slots and credit.

    Args:
        on_busy: Called when a slot is taken after :meth:`is_idle` has said that none was; must not block.
        on_alone: Called before the handler of a suspect begins, and when it has returned, while the board names it.
    """

    def __init__(
        self,
        concurrency: int,
        prefetch_s: float,
        budget_bytes: int,
        *,
        on_busy: Callable[[], None] = lambda: None,
        on_alone: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = EngineLoop(concurrency, prefetch_s, budget_bytes)
        self._lock = threading.Lock()
        self._idle_slots = [Slot(row) for row in range(concurrency)]
        self._slots = tuple(self._idle_slots)
        self._concurrency = concurrency
        self._sessions: dict[Peer, Session] = {}
        self._on_busy = on_busy
        self._on_alone = on_alone
        self._is_told_idle = True
        self._taken = 0
        self._taken_before = 0
        self._executor = ThreadPool(concurrency + _SPARE_THREADS, "engine-handler", is_ready=True)
        self.flusher = Flusher(self.review)
        self.is_draining = False
        self.is_wanted = self._loop.is_wanted  # Asked for each message.

    def __repr__(self) -> str:
        return f"<Slots: {self._loop!r}>"

    @property
    def in_use(self) -> int:
        return self._concurrency - len(self._idle_slots)

    @property
    def is_backlog_waiting(self) -> bool:
        return self._loop.is_backlog_waiting

    @property
    def has_backlog(self) -> bool:
        """Whether messages wait in the backlog, or here from it."""
        return self._loop.has_backlog

    @property
    def has_hungry_peers(self) -> bool:
        """Whether a peer without credit waits for what others leave."""
        return self._loop.has_hungry_peers

    def should_hand_over(self, size_bytes: int, *, is_backlog: bool) -> bool:
        """Whether another thread should run the handler, so that this one can go on receiving.

        It is worth it when another slot may be free, when there is much to receive, for the master's connection, whose
        DEPTH should be heard in time, and when the handler is slow, or unknown.
        """
        handler_s = self._loop.handler_s
        is_worth_early = self._concurrency > 1 or size_bytes >= OVERLAP_BYTES or is_backlog
        return handler_s is None or handler_s > (HAND_OVER_ABOVE_S if is_worth_early else SLOW_HANDLER_S)

    def start(self, board: HandlerBoard | None = None) -> None:
        """Begin; with a board, the controller can see what runs whatever handlers do."""
        if board is not None:
            for slot in self._slots:
                slot.write_to(board)
        self.flusher.start()

    # ── slots ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def acquire(self, since: float, *, is_backlog: bool, is_suspect: bool = False) -> Slot | None:
        """Wait for a slot; return None when there will be none, because the engine drains or is clogged."""
        slot = None if is_suspect else self._take_free_slot()
        if slot is not None:
            return slot
        waiter = _WaitingThread()
        self.submit(waiter, since, is_backlog=is_backlog, is_suspect=is_suspect)
        return waiter.wait()

    def _take_free_slot(self) -> Slot | None:
        with self._lock:
            if self.is_draining or not self._loop.take_slot():
                return None
            slot = self._take_idle_slot()
        if self._is_told_idle:
            self._say_busy()
        return slot

    def submit(self, waiter: Waiter, since: float, *, is_backlog: bool, is_suspect: bool = False) -> None:
        """Give the waiter the next slot that is free for it, or refuse it because the engine drains or is clogged.

        Args:
            since: The monotonic time since when its message waits.
            is_suspect: Nothing else may run beside it.
        """
        slot = None
        with self._lock:
            now = time.monotonic()
            if not self.is_draining and (self._loop.take_all_slots(now) if is_suspect else self._loop.take_slot()):
                slot = self._take_idle_slot()
            is_waiting = slot is None and not self.is_draining
            is_waiting = is_waiting and not self._loop.is_clogged(now, is_backlog=is_backlog, is_suspect=is_suspect)
            if is_waiting and is_suspect:
                self._loop.wait_for_all_slots(waiter, now)
            elif is_waiting:
                self._loop.wait_for_slot(waiter, since, is_backlog=is_backlog)
        if is_suspect:
            self.flusher.review_at(now + ALONE_GRACE_S)
        if slot is not None:
            if self._is_told_idle:
                self._say_busy()
            self._grant(waiter, slot, is_alone=is_suspect)
        elif not is_waiting:
            waiter.refused()

    def _grant(self, waiter: Waiter, slot: Slot, *, is_alone: bool) -> None:
        if is_alone:
            self._on_alone()  # What those before it have broken is not its fault.
        waiter.granted(slot)

    def _take_idle_slot(self) -> Slot:
        self._taken += 1
        return self._idle_slots.pop()

    def release(self, slot: Slot, messages: int, seconds: float) -> None:
        """Give a slot back after running ``messages`` handlers in ``seconds``."""
        if self._loop.is_alone:
            self._on_alone()
        slot.end()
        with self._lock:
            self._loop.measured(messages, seconds)
            if self._loop.free_unwanted_slot():
                self._idle_slots.append(slot)
                return
            now = time.monotonic()
            # The master's next message may come now, or anybody's; nothing else happens on their connections.
            is_credit_due = self._loop.is_backlog_next(now) or self._loop.is_kept_for_suspect
            self._idle_slots.append(slot)
            granted = [(waiter, self._take_idle_slot()) for waiter in self._loop.free_slot(now)]
            is_alone = self._loop.is_alone
        for waiter, its_slot in granted:
            self._grant(waiter, its_slot, is_alone=is_alone)
        if is_credit_due:
            self.flusher.review_at(now)

    @contextmanager
    def emitting(self) -> Iterator[None]:
        """A slot is held by what its handler emitted, until that is safe."""
        with self._lock:
            again_at = self._loop.emission_begun(time.monotonic())
        if again_at is not None:
            self.flusher.review_at(again_at)
        try:
            yield
        finally:
            with self._lock:
                self._loop.emission_ended()

    def run_soon(self, work: Callable[[Slot], None], slot: Slot) -> None:
        """Run work that has been granted its slot in a thread of the pool."""
        self._executor.submit(work, slot)

    def running(self, now: float) -> tuple[RunningMessage, ...]:
        """Return the messages whose handlers run, or that are being kept."""
        seen = [(slot.message_id, slot.since, slot.has_returned) for slot in self._slots]
        return tuple(RunningMessage(message, max(0.0, now - since), kept) for message, since, kept in seen if message)

    def blame_nobody(self) -> None:
        """Say on the board that nothing runs, unless a suspect has the engine: that one is to blame."""
        if not self._loop.is_alone:
            for slot in self._slots:
                slot.end()

    def is_idle(self) -> bool:
        """Whether no slot was in use since this was last asked; ``on_busy`` follows when that changes."""
        with self._lock:
            is_idle = len(self._idle_slots) == self._concurrency and self._taken == self._taken_before
            self._taken_before = self._taken
            self._is_told_idle = is_idle
        return is_idle

    def _say_busy(self) -> None:
        self._is_told_idle = False
        self._on_busy()

    # ── credit ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def join(self, session: Session) -> None:
        """Give credit to this connection from now on."""
        with self._lock:
            self._sessions[session.peer] = session
            self._loop.join(session.peer, time.monotonic())
        self.review(session)

    def leave(self, session: Session) -> None:
        with self._lock:
            self._sessions.pop(session.peer, None)
            self._loop.leave(session.peer)
        self.review()

    def depth_changed(self, depth: int) -> None:
        """Take over how many messages wait in the backlog."""
        with self._lock:
            self._loop.depth = depth
        self.review()

    def review(self, own: Session | None = None) -> None:
        """Decide about credit. The sessions concerned are flushed soon, but ``own``, whose caller does it."""
        with self._lock:
            now = time.monotonic()
            waiters = self._loop.turn_away(now)  # First: the others may have credit when a suspect has gone.
            peers, again_at = self._loop.grants(now, own.peer if own is not None else None)
            sessions = [self._sessions[peer] for peer in peers]
        for waiter in waiters:
            waiter.refused()
        for session in sessions:
            if session is not own:
                self.flusher.flush_soon(session)
        if again_at is not None:
            self.flusher.review_at(again_at)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def drain(self) -> None:
        """Refuse whoever waits, and everybody from now on; those who have a slot keep it until they are done."""
        with self._lock:
            self.is_draining = True
            waiters = self._loop.drain()
        for waiter in waiters:
            waiter.refused()

    def close(self) -> None:
        """End the threads; waits for handlers that run."""
        self.drain()
        self._executor.shutdown(wait=True)
        self.flusher.close()
