"""The connector's I/O thread: reads outcomes and credit of all peers, and goes on writing where the kernel was full."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from harmonicio.core.errors import ConnectionEnded, HarmonicIOError
from harmonicio.stream_connector.peer import Peer
from harmonicio.wire.events import Event, Goodbye

_log = logging.getLogger(__name__)

MAX_WAIT_S = 1.0


class PumpOwner(Protocol):
    """What the pump tells of; called on its thread."""

    def peer_event(self, peer: Peer, event: Event) -> None: ...

    def peer_paused(self) -> None:
        """All events that were there have been told."""
        ...

    def peer_ended(self, peer: Peer, error: HarmonicIOError) -> None: ...

    def next_due_s(self) -> float | None:
        """Seconds until time alone changes something."""
        ...

    def time_passed(self) -> None: ...


class Pump:
    """One thread that serves the peers of one connector."""

    def __init__(self, owner: PumpOwner, name: str) -> None:
        self._owner = owner
        self._lock = threading.Lock()
        self._requests: list[Callable[[], None]] = []
        self._peers: set[Peer] = set()
        self._is_started = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name=f"{name}-io", daemon=True)

    def __repr__(self) -> str:
        return f"<Pump of {len(self._peers)} peers{', closing' if self._is_closing else ''}>"

    def start(self) -> None:
        """Open what is needed and serve; what was requested before is done first."""
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        self._is_started = True
        self._thread.start()
        self.wake()

    def add(self, peer: Peer) -> None:
        """Serve this peer from now on."""
        self._request(lambda: self._add(peer))

    def watch_writes(self, peer: Peer) -> None:
        """Flush this peer when the kernel takes more."""
        self._request(lambda: self._watch(peer))

    def end(self, peer: Peer, error: HarmonicIOError) -> None:
        """Give this peer up."""
        self._request(lambda: self._end(peer, error))

    def wake(self) -> None:
        """Look at what is due."""
        if not self._is_started:
            return
        with suppress(OSError):  # Wake-ups enough are waiting, or it is closed already.
            self._wake_writer.send(b"\0")

    def close(self) -> None:
        """End the thread and every peer."""
        if not self._is_started:
            return
        self._is_closing = True
        self.wake()
        self._thread.join()
        self._take_requests()
        for peer in list(self._peers):
            peer.say_goodbye()
            self._end(peer, ConnectionEnded("The connector was closed."))
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _request(self, request: Callable[[], None]) -> None:
        with self._lock:
            self._requests.append(request)
        self.wake()

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while not self._is_closing:
            due_s = self._owner.next_due_s()
            for key, mask in self._selector.select(MAX_WAIT_S if due_s is None else min(due_s, MAX_WAIT_S)):
                if key.data is None:
                    self._take_requests()
                    continue
                if mask & selectors.EVENT_WRITE:
                    self._serve(key.data, self._flush)
                if mask & selectors.EVENT_READ:
                    self._serve(key.data, self._read)
            self._owner.time_passed()

    def _take_requests(self) -> None:
        with suppress(BlockingIOError):
            while self._wake_reader.recv(4096):
                pass
        with self._lock:
            requests, self._requests = self._requests, []
        for request in requests:
            request()

    def _serve(self, peer: Peer, action: Callable[[Peer], None]) -> None:
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
        self._peers.add(peer)
        self._selector.register(peer.link.channel.fileno(), selectors.EVENT_READ, peer)
        self._serve(peer, self._take_events)

    def _watch(self, peer: Peer) -> None:
        if peer in self._peers:
            self._selector.modify(peer.link.channel.fileno(), selectors.EVENT_READ | selectors.EVENT_WRITE, peer)

    def _flush(self, peer: Peer) -> None:
        peer.is_blocked = False
        self._selector.modify(peer.link.channel.fileno(), selectors.EVENT_READ, peer)
        peer.flush()

    def _read(self, peer: Peer) -> None:
        connection = peer.link.connection
        count = peer.link.channel.try_receive(connection.receive_buffer())
        if count is None:
            return
        connection.bytes_received(count)
        if count == 0:
            connection.end_of_stream()
            raise ConnectionEnded(f"{peer.lane.name} closed the connection.")
        self._take_events(peer)

    def _take_events(self, peer: Peer) -> None:
        while (event := peer.link.next_event()) is not None:
            if isinstance(event, Goodbye):
                raise ConnectionEnded(f"{peer.lane.name} ended the connection: {event.text or 'it is done'}")
            self._owner.peer_event(peer, event)
        self._owner.peer_paused()

    def _end(self, peer: Peer, error: HarmonicIOError) -> None:
        if peer.is_ended:
            return
        peer.is_ended = True
        self._peers.discard(peer)
        with suppress(KeyError, ValueError):  # It may not have been registered yet.
            self._selector.unregister(peer.link.channel.fileno())
        peer.link.close()
        self._owner.peer_ended(peer, error)
