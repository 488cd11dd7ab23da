"""Serves the sockets of one connector: reads outcomes and credit, and goes on writing where the kernel was full.

One thread at a time takes a *turn*: waits for the sockets, reads, acts. Whoever waits for something (``result``,
``flush``, room in the byte budget) takes the turns on its own thread, because handing every outcome over from another
one would cost more than all the rest; the I/O thread takes them when nobody waits.

      I/O thread:   turn ── somebody waits, or sends all the time ──► parked ── nobody took a turn for 5 ms ──► turn
      a waiter:     done? ── no ──► turn, if nobody else is at it; else wait to be told
      who sends:    sent ── again within 2 ms ──► a turn that does not wait, each millisecond

All state is guarded by the owner's lock; it is never held while waiting for the sockets.
"""

from __future__ import annotations

import logging
import math
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from harmonicio.core.errors import ConnectionEnded, HarmonicIOError
from harmonicio.stream_connector.peers import Peer, Written
from harmonicio.transport.busy_poll import BusyPoll
from harmonicio.wire.events import Event, Goodbye

_log = logging.getLogger(__name__)

MAX_WAIT_S = 1.0
#: After this long without a turn of a waiter, the I/O thread takes over again.
PARKED_S = 0.005
#: A source that sends again within this time is busy …
BUSY_S = 0.002
#: … and serves the sockets as often as this, …
SERVE_EVERY_S = 0.001
#: … or as often as this where there are several, of which the one that has answered may have the next message.
SERVE_SEVERAL_EVERY_S = 0.0005
#: So long a thread that sends waits for the kernel to take more, before it leaves the rest to the I/O thread.
INSIST_S = 0.002
#: How often time alone is looked at, whatever happens on the sockets.
TICK_S = 0.25


class PumpOwner(Protocol):
    """What the pump tells of, without the lock."""

    def peer_events(self, peer: Peer, events: list[Event]) -> None: ...

    def peer_ended(self, peer: Peer, error: HarmonicIOError) -> None: ...

    def peer_stuck(self, peer: Peer) -> None:
        """What it would write next cannot be read."""
        ...

    def next_due_s(self) -> float | None:
        """Seconds until time alone changes something; called with the lock held."""
        ...

    def time_passed(self) -> None: ...


class Pump:
    """The sockets of one connector.

    Args:
        lock: The owner's; waiters hold it.
    """

    def __init__(self, owner: PumpOwner, lock: threading.Lock, name: str) -> None:
        self._owner = owner
        self._lock = lock
        self._changed = threading.Condition(lock)
        self._parked = threading.Condition(lock)
        self._requests: deque[tuple[Callable[[Peer], None], Peer]] = deque()
        self._errors: dict[Peer, HarmonicIOError] = {}
        self._peers: dict[Peer, None] = {}  # As they came: the same each time, which a set is not.
        self._waiters = 0
        self._turns = 0
        self._is_turning = False
        self._is_background = False
        self._is_woken = False
        self._is_closing = False
        self._tick_at = 0.0
        self._sent_at = self._turned_at = 0.0
        self._is_source_busy = self._is_left_to_io = False
        self._due_at = math.inf
        self._polling = BusyPoll()
        self._thread = threading.Thread(target=self._run, name=f"{name}-io", daemon=True)

    def __repr__(self) -> str:
        return f"<Pump of {len(self._peers)} peers: {self._waiters} wait{', closing' if self._is_closing else ''}>"

    def start(self) -> None:
        """Open what is needed and serve; what was requested before is done first."""
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        self._thread.start()

    def close(self) -> None:
        """End the thread and every peer. Waiters leave as soon as what they wait for answers that it is over."""
        if self._thread.ident is None or self._is_closing:
            return
        with self._lock:
            self._is_closing = True
            self._parked.notify_all()
            while self._is_turning:
                self._wake()
                self._changed.wait(PARKED_S)
            self._changed.notify_all()
        self._thread.join()
        self._take_requests()
        for peer in list(self._peers):
            peer.say_goodbye()
            self._end(peer, ConnectionEnded("The connector was closed."))
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    # ── requests, by any thread ──────────────────────────────────────────────────────────────────────────────────────

    def add(self, peer: Peer) -> None:
        """Serve this peer from now on."""
        self._request(self._add, peer)

    def flush(self, peer: Peer, *, insists: bool = False) -> None:
        """Write what the peer has to write, now and on this thread, as far as the kernel takes it.

        Args:
            insists: Wait a moment for the kernel to take more; not on a turn, when other sockets wait, too.
        """
        try:
            written = peer.flush()
            if written is Written.FULL:
                self._request(self._watch, peer)
                if insists:
                    self._insist(peer)
            elif written is Written.SOME:
                self.flush_soon(peer)
            elif written is Written.STUCK:
                self._owner.peer_stuck(peer)
        except HarmonicIOError as error:
            self.end(peer, error)

    def _insist(self, peer: Peer) -> None:
        """Serve the sockets until the kernel has taken it all, if that is soon: no other thread need be woken here."""
        with self._lock:
            if not self.wait(lambda: not peer.is_blocked or peer.is_ended, INSIST_S):
                self._is_left_to_io = True
                self._parked.notify()

    def sent(self, now: float) -> None:
        """A source has sent: while it does so all the time it serves the sockets, too, and the I/O thread sleeps."""
        self._is_source_busy, self._sent_at = now - self._sent_at < BUSY_S, now
        every_s = SERVE_EVERY_S if len(self._peers) == 1 else SERVE_SEVERAL_EVERY_S
        if self._is_source_busy and not self._is_turning and now - self._turned_at >= every_s:
            with self._lock:
                if not (self._is_turning or self._is_closing):
                    self._take_turn(0.0)

    def flush_soon(self, peer: Peer) -> None:
        """Have it written on the next turn, with whatever is added meanwhile."""
        if not peer.is_flush_due:
            peer.is_flush_due = True
            self._request(self._flush_due, peer)

    def end(self, peer: Peer, error: HarmonicIOError) -> None:
        """Give this peer up."""
        if not peer.is_ended:
            self._errors.setdefault(peer, error)
            self._request(self._end_for_reason, peer)

    def wake(self) -> None:
        """Look at what is due."""
        if self._is_turning:
            self._wake()

    def _request(self, action: Callable[[Peer], None], peer: Peer) -> None:
        self._requests.append((action, peer))
        self.wake()  # Who takes a turn later looks at the requests first.

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            with suppress(OSError):  # It is closed already.
                self._wake_writer.send(b"\0")

    # ── whose turn it is; the lock is held ───────────────────────────────────────────────────────────────────────────

    def wait(self, is_done: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until ``is_done()``, which is asked with the lock held; return whether it is."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._waiters += 1
        try:
            while not is_done():
                left_s = MAX_WAIT_S if deadline is None else min(MAX_WAIT_S, deadline - time.monotonic())
                if left_s <= 0 or self._is_closing:
                    return False
                if not self._is_turning:
                    self._take_turn(left_s)
                    continue
                if self._is_background:
                    self._wake()
                self._changed.wait(left_s)
            return True
        finally:
            self._waiters -= 1
            if self._waiters and not self._is_turning:
                self._changed.notify_all()

    def tell_waiters(self) -> None:
        """What somebody waits for may have changed, and not on a turn of theirs."""
        if self._waiters:
            self._changed.notify_all()
            self.wake()

    def _run(self) -> None:
        turns = -1
        with self._lock:
            while not self._is_closing:
                is_served = not self._is_left_to_io and (turns != self._turns or self._is_served)
                if self._is_turning or self._waiters or is_served:
                    turns = self._turns
                    self._parked.wait(PARKED_S)
                    continue
                self._is_background, self._is_left_to_io = True, False
                self._take_turn(MAX_WAIT_S)
                self._is_background = False
                turns = self._turns

    @property
    def _is_served(self) -> bool:
        """Whether a source that sends all the time will take the next turn."""
        return self._is_source_busy and time.monotonic() - self._sent_at < PARKED_S

    def _take_turn(self, at_most_s: float) -> None:
        due_s = self._owner.next_due_s()
        self._is_turning = True
        self._turns += 1
        self._lock.release()
        try:
            if due_s is not None:
                self._due_at = min(self._due_at, time.monotonic() + due_s)
            self._turn(at_most_s)
        finally:
            self._lock.acquire()
            self._is_turning = False
            if self._waiters:
                self._changed.notify_all()

    # ── one turn; without the lock ───────────────────────────────────────────────────────────────────────────────────

    def _turn(self, at_most_s: float) -> None:
        due_s = max(0.0, self._due_at - time.monotonic())
        has_acted = self._take_requests()  # They may have changed what is due.
        for key, mask in self._ready(0.0 if has_acted else min(due_s, at_most_s)):
            peer = key.data
            if peer is None:
                with suppress(BlockingIOError):
                    self._wake_reader.recv(4096)
                self._is_woken = False
                continue
            if mask & selectors.EVENT_WRITE:
                self._serve(self._unblock, peer)
            if mask & selectors.EVENT_READ:
                self._serve(self._read, peer)
        self._take_requests()
        self._turned_at = now = time.monotonic()
        if now >= self._tick_at or now >= self._due_at:
            self._due_at = math.inf
            self._tick_at = now + TICK_S
            self._owner.time_passed()
            for peer in list(self._peers):
                self._serve(lambda each: each.check_speed(now), peer)

    def _ready(self, at_most_s: float) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the sockets that can be served; wait for the first of them.

        Where a source waits, for a result or for room, and answers come soon, it does not sleep until one is here.
        """
        if at_most_s <= 0.0 or self._is_background:
            return self._selector.select(at_most_s)
        begun, ready = time.monotonic(), None
        if self._polling.is_due:
            ready = self._polling.poll(lambda: self._selector.select(0.0) or None)
        if ready is None:
            ready = self._selector.select(at_most_s)
        self._polling.waited(time.monotonic() - begun if ready else math.inf)
        return ready

    def _take_requests(self) -> bool:
        """Act on what was requested so far; return whether there is more by now, or was something."""
        count = len(self._requests)
        for _ in range(count):
            action, peer = self._requests.popleft()
            self._serve(action, peer)
        return count > 0

    def _serve(self, action: Callable[[Peer], None], peer: Peer) -> None:
        if peer.is_ended:
            return
        try:
            action(peer)
        except HarmonicIOError as error:
            self._end(peer, error)
        except Exception as error:  # noqa: BLE001  one peer's trouble must not stop the others; it is logged
            _log.exception("Serving %r failed", peer)
            self._end(peer, ConnectionEnded(f"An error of ours ended the connection: {error!r:.200}"))

    def _add(self, peer: Peer) -> None:
        self._peers[peer] = None
        self._selector.register(peer.link.channel.fileno(), selectors.EVENT_READ, peer)
        self._take_events(peer)
        self._flush_due(peer)

    def _watch(self, peer: Peer) -> None:
        if peer in self._peers:
            self._selector.modify(peer.link.channel.fileno(), selectors.EVENT_READ | selectors.EVENT_WRITE, peer)

    def _unblock(self, peer: Peer) -> None:
        peer.unblock()
        if self._flush(peer) is not Written.FULL:  # Else its socket is watched already, as it should be.
            self._selector.modify(peer.link.channel.fileno(), selectors.EVENT_READ, peer)

    def _flush_due(self, peer: Peer) -> None:
        peer.is_flush_due = False
        if self._flush(peer) is Written.FULL:
            self._watch(peer)

    def _flush(self, peer: Peer) -> Written:
        written = peer.flush()
        if written is Written.SOME:
            self.flush_soon(peer)
        elif written is Written.STUCK:
            self._owner.peer_stuck(peer)
        return written

    def _read(self, peer: Peer) -> None:
        connection = peer.link.connection
        is_whole = False
        try:
            count = peer.link.channel.try_receive(connection.receive_buffer())
            if count is None:
                is_whole = True
                return
            connection.bytes_received(count)
            is_whole = True
        finally:
            if not is_whole:
                peer.link.channel.shutdown()  # Bytes are missing: whatever came next would be misread.
        if count == 0:
            connection.end_of_stream()
            raise ConnectionEnded(f"{peer.lane.name} closed the connection.")
        self._take_events(peer)

    def _take_events(self, peer: Peer) -> None:
        events: list[Event] = []
        try:
            while (event := peer.link.next_event()) is not None:
                if isinstance(event, Goodbye):
                    text = f"{peer.lane.name} ended the connection: {event.text or event.code or 'it is done'}"
                    raise ConnectionEnded(text, hint=event.hint)
                if peer.transmissions is None or not peer.transmissions.hear(event):
                    events.append(event)
        finally:
            if events:
                self._owner.peer_events(peer, events)
        if peer.link.channel.has_bytes_kept:  # The selector does not see them.
            self._request(self._read, peer)

    def _end_for_reason(self, peer: Peer) -> None:
        self._end(peer, self._errors.pop(peer, ConnectionEnded("It was given up.")))

    def _end(self, peer: Peer, error: HarmonicIOError) -> None:
        if peer.is_ended:
            return
        self._errors.pop(peer, None)
        self._peers.pop(peer, None)
        with suppress(KeyError, ValueError):  # It may not have been registered yet.
            self._selector.unregister(peer.link.channel.fileno())
        peer.end()
        self._owner.peer_ended(peer, error)
