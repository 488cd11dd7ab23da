"""Connections while they come about: each is dialled and greeted on a thread of its own, for as long as that takes.

So a host that does not answer holds up nobody else. At most one thread for each lease of a grant, and one for the
backlog; they end by themselves, or within a moment when this is closed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from harmonicio.core.errors import ConnectionEnded, HarmonicIOError
from harmonicio.core.lease import Address
from harmonicio.core.message import MAX_MESSAGE_BYTES
from harmonicio.core.settings import ChecksumMode
from harmonicio.stream_connector.arena_slots import ArenaSlots, Transmissions
from harmonicio.stream_connector.lanes import Lane
from harmonicio.stream_connector.peers import Peer
from harmonicio.transport import tcp, unix
from harmonicio.transport.credentials import NO_CREDENTIALS, TlsCredentials
from harmonicio.transport.link import Link
from harmonicio.wire import checksum
from harmonicio.wire.events import Hello, Role

_log = logging.getLogger(__name__)

DIAL_WITHIN_S = 5.0


class Dialling:
    """The connections of one connector that are being dialled; all but the threads is called by one thread at a time.

    Args:
        name: For the threads.
        slots: Of the shared memory that engines of this host are offered.
        on_dialled: Called on a thread of this when there is something to take.
        tls: What to show, and whom to believe, where an address speaks TLS.
    """

    def __init__(
        self,
        name: str,
        checksum_mode: ChecksumMode,
        slots: ArenaSlots,
        on_dialled: Callable[[], None],
        tls: TlsCredentials = NO_CREDENTIALS,
    ) -> None:
        self._name = name
        self._checksum_mode = checksum_mode
        self._slots = slots
        self._on_dialled = on_dialled
        self._tls = tls
        self._changed = threading.Condition()
        self._threads: dict[str, threading.Thread] = {}
        self._ended: dict[str, Peer | HarmonicIOError] = {}
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<Dialling: {len(self._threads)} under way, {len(self._ended)} of them to be taken>"

    def __contains__(self, key: str) -> bool:
        return key in self._threads

    def begin(self, key: str, address: Address, hello: Hello, socket_path: str = "") -> None:
        """Dial; the connection, or why there is none, can be taken under ``key`` later.

        Args:
            socket_path: Of an engine's UNIX socket, which is tried first: only on its own host there is one.
        """
        thread = threading.Thread(
            target=self._run, args=(key, address, hello, socket_path), name=f"{self._name}-dial-{key}", daemon=True
        )
        thread.start()
        self._threads[key] = thread

    def wait_for_one(self, timeout_s: float) -> None:
        """Wait until one of those that are dialled can be taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or not self._threads, timeout_s)

    def take(self) -> dict[str, Peer | HarmonicIOError]:
        """Return what has come of it, by key, once."""
        with self._changed:
            ended, self._ended = self._ended, {}
        for key in ended:
            self._threads.pop(key).join()
        return ended

    def close(self) -> None:
        """End what is under way."""
        self._is_closing = True
        for thread in self._threads.values():
            thread.join()
        for outcome in self.take().values():
            if isinstance(outcome, Peer):
                outcome.end()

    def _run(self, key: str, address: Address, hello: Hello, socket_path: str) -> None:
        outcome: Peer | HarmonicIOError
        try:
            outcome = self._dial(address, hello, socket_path)
        except HarmonicIOError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001  a bug here must not leave the key without an answer; it is logged
            _log.exception("Dialling %s failed", address)
            outcome = ConnectionEnded(f"An error of ours ended the dialling of {address}: {error!r:.200}")
        with self._changed:
            self._ended[key] = outcome
            self._changed.notify_all()
        self._on_dialled()

    def _dial(self, address: Address, hello: Hello, socket_path: str) -> Peer:
        if socket_path and self._slots.is_possible and self._checksum_mode is not ChecksumMode.ALWAYS:
            try:
                return self._dial_here(socket_path, hello)
            except HarmonicIOError as error:
                _log.debug("%s It is dialled at %s.", error, address)
        return self._dial_there(address, hello)

    def _dial_here(self, socket_path: str, hello: Hello) -> Peer:
        """Dial an engine of this host, and offer it the shared memory, which is made when there is such an engine."""
        channel = unix.dial(socket_path)
        arena = self._slots.arena()
        if arena is None:
            channel.close()
            raise ConnectionEnded("There is no shared memory.")
        link = Link(channel, Role.CONNECTOR)
        try:
            answer = link.greet(
                replace(hello, arena=arena.size_bytes),
                is_wanted=self._is_wanted,
                send_first=lambda first: channel.send_with_descriptor(first, arena.descriptor),
            )
        except BaseException:
            link.close()
            raise
        transmissions = None
        if answer.arena == arena.size_bytes:
            link.connection.use_arena(arena.size_bytes)
            transmissions = Transmissions(self._slots, channel.open_peer_process())
        largest = answer.max_message_bytes or MAX_MESSAGE_BYTES
        lane = Lane(f"Engine {hello.engine} of this host", is_backlog=False, max_message_bytes=largest)
        return Peer(link, lane, transmissions=transmissions)

    def _dial_there(self, address: Address, hello: Hello) -> Peer:
        is_checked = self._checksum_mode is ChecksumMode.ALWAYS or (
            self._checksum_mode is ChecksumMode.AUTO and not address.is_loopback
        )
        offered = replace(hello, checksums=checksum.offered() if is_checked else ())
        channel = tcp.dial(address, timeout_s=DIAL_WITHIN_S, is_wanted=self._is_wanted, tls=self._tls.dialling())
        link = Link(channel, Role.CONNECTOR)
        try:
            answer = link.greet(offered, is_wanted=self._is_wanted)
        except BaseException:
            link.close()
            raise
        largest = answer.max_message_bytes or MAX_MESSAGE_BYTES
        chosen = answer.checksums[0] if answer.checksums else ""
        name = f"Engine {hello.engine}" if hello.engine else "The backlog"
        return Peer(
            link,
            Lane(f"{name} at {address}", is_backlog=not hello.engine, max_message_bytes=largest),
            checksum_flag=int(checksum.FLAG_OF[chosen]) if is_checked and chosen in checksum.SUPPORTED else 0,
        )

    def _is_wanted(self) -> bool:
        return not self._is_closing
