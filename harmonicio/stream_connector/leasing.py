"""The connector's control thread: asks the master for leases, opens connections, renews, gives back.

It does everything that may wait for others: REST requests, dialling, greeting. While the master is away, live
connections go on and this thread tries again with growing pauses; when nothing at all can be reached for some seconds,
a warning names the address.

      asked ──► granted ──dial──► connected ──renewed every third of the term──► …
                   │                  │
                   └── no answer ─────┴── idle for a term, connection ended, close ──► released
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol, TypeVar

from harmonicio import __version__
from harmonicio.control.messages import BacklogAccess, Lease, LeaseGrant, LeaseList, LeaseRenewal, LeaseRequest
from harmonicio.core.errors import HarmonicIOError, NotAllowed, NotFound, Unavailable
from harmonicio.core.lease import LEASE_TERM_S, Address
from harmonicio.core.message import MAX_MESSAGE_BYTES
from harmonicio.core.settings import ChecksumMode
from harmonicio.stream_connector.lanes import Lane
from harmonicio.stream_connector.peers import Peer
from harmonicio.transport import tcp
from harmonicio.transport.link import Link
from harmonicio.wire import checksum
from harmonicio.wire.events import Hello, Role
from harmonicio.wire.frames import VERSION

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

DIAL_WITHIN_S = 5.0
LEASES_PER_REQUEST = 16
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 5.0
#: The pause between two requests, even if the master says that there is more to have.
ASK_EVERY_S = 0.05
LOOK_EVERY_S = 1.0
WARN_AFTER_S = 5.0
#: A request that runs when the connector closes may take its time, but not the caller's.
CLOSE_WITHIN_S = 1.0


class LeaseClient(Protocol):
    """What is asked of the master; :class:`~harmonicio.control.client.MasterClient` does it."""

    url: str

    def request_leases(self, request: LeaseRequest) -> LeaseGrant: ...

    def renew_leases(self, held: LeaseList) -> LeaseRenewal: ...

    def release_leases(self, held: LeaseList) -> None: ...

    def close(self) -> None: ...


class LeasingOwner(Protocol):
    """The connector, as this thread sees it."""

    def wants_engines(self) -> bool: ...

    def wants_backlog(self) -> bool: ...

    def open_peer(self, peer: Peer) -> None: ...

    def end_idle(self, idle_s: float) -> None:
        """Close the engine connections that were idle for so long."""
        ...

    def granted(self, grant: LeaseGrant) -> None:
        """The master lets this source send."""
        ...

    def refused(self, error: HarmonicIOError) -> None:
        """The master does not let this source send."""
        ...


class Leasing:
    """One thread that keeps the connector supplied with connections."""

    def __init__(
        self, owner: LeasingOwner, client: LeaseClient, *, stream: str, source: str, checksum_mode: ChecksumMode
    ) -> None:
        self._owner = owner
        self._client = client
        self._checksum_mode = checksum_mode
        self._hello = Hello(
            Role.CONNECTOR, stream=stream, source=source, software=f"harmonicio {__version__}", versions=(VERSION,)
        )
        self._changed = threading.Condition()
        self._is_kicked = False
        self._is_closing = False
        self._access: BacklogAccess | None = None
        self._term_s = LEASE_TERM_S
        self._held: dict[str, Peer] = {}
        self._connected: dict[str, Peer] = {}
        #: Whether there are connections without a lease, since the master forgot it.
        self._is_short = False
        self._ask_at = self._dial_at = 0.0
        self._renew_at = math.inf
        self._trouble = _Trouble(client.url)
        self.lease_requests = 0
        self._thread = threading.Thread(target=self._run, name=f"{source}-leases", daemon=True)

    def __repr__(self) -> str:
        return f"<Leasing at {self._client.url}: {len(self._held)} held, {self.lease_requests} requests>"

    def start(self) -> None:
        """Ask for leases once, so that what can never work is said at once, then go on in a thread.

        Raises:
            NotAllowed, NotFound: the master does not let this source send to this stream.
        """
        self._ask(is_first=True)
        self._thread.start()

    def kick(self) -> None:
        """Look at what is wanted."""
        with self._changed:
            self._is_kicked = True
            self._changed.notify()

    def close(self) -> None:
        """End the thread, which gives all leases back."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.ident is None:
            self._client.close()
        else:
            self._thread.join(CLOSE_WITHIN_S)

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while not self._is_closing:
            try:
                self._step(time.monotonic())
            except Exception:  # noqa: BLE001  a bug here must not end all leases; it is logged
                _log.exception("Leasing failed; it goes on")
                self._ask_at = self._dial_at = time.monotonic() + RETRY_MAX_S
            pause_s = self._pause_s(time.monotonic())  # Not under our lock: it takes the owner's, which calls kick.
            with self._changed:
                self._changed.wait_for(lambda: self._is_kicked or self._is_closing, pause_s)
                self._is_kicked = False
        self._release(self._held)
        self._client.close()

    def _pause_s(self, now: float) -> float:
        due = [now + LOOK_EVERY_S, self._renew_at]
        if self._wants_leases():
            due.append(self._ask_at)
        if self._owner.wants_backlog():
            due.append(self._ask_at if self._access is None else self._dial_at)
        return max(0.001, min(due) - now)

    def _step(self, now: float) -> None:
        self._release([lease for lease, peer in self._held.items() if peer.is_ended])
        self._connected = {engine: peer for engine, peer in self._connected.items() if not peer.is_ended}
        if now >= self._ask_at and (self._wants_leases() or (self._access is None and self._owner.wants_backlog())):
            self._ask()
        if self._access is not None and now >= self._dial_at and self._owner.wants_backlog():
            self._open_backlog(self._access)
        if now >= self._renew_at:
            self._renew()

    def _wants_leases(self) -> bool:
        return self._is_short or self._owner.wants_engines()

    # ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask(self, *, is_first: bool = False) -> None:
        self.lease_requests += 1
        try:
            grant = self._client.request_leases(
                LeaseRequest(self._hello.stream, self._hello.source, LEASES_PER_REQUEST)
            )
        except (NotAllowed, NotFound) as error:
            if is_first:
                raise
            self._owner.refused(error)
            self._ask_at = time.monotonic() + RETRY_MAX_S
            return
        except HarmonicIOError as error:
            self._ask_at = time.monotonic() + self._trouble.pause_s(error)
            return
        self._trouble.over()
        self._access, self._is_short = grant.backlog, False
        opened = [self._open_engine(lease) for lease in grant.leases]
        pause_s = max(grant.retry_after_s, ASK_EVERY_S if all(opened) else RETRY_FIRST_S)
        self._ask_at = time.monotonic() + pause_s
        if grant.leases:
            self._term_s = grant.leases[0].term_s
            self._renew_at = min(self._renew_at, time.monotonic() + self._term_s / 3)
        self._owner.granted(grant)

    def _renew(self) -> None:
        self._renew_at = time.monotonic() + self._term_s / 3
        self._owner.end_idle(self._term_s)
        if not self._held:
            return
        held = LeaseList(self._hello.source, tuple(self._held))
        renewal = self._attempt(lambda: self._client.renew_leases(held))
        for lease in renewal.ended if renewal is not None else ():
            # Its connection goes on; new leases are asked for so that the master knows of it after a restart.
            if not self._held.pop(lease).lane.is_draining:
                self._is_short = True

    def _release(self, leases: Iterable[str]) -> None:
        released = tuple(leases)
        for lease in released:
            del self._held[lease]
        if released:
            self._attempt(lambda: self._client.release_leases(LeaseList(self._hello.source, released)))

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _open_engine(self, lease: Lease) -> bool:
        """Connect to an engine; return whether that went well, or was not needed."""
        peer: Peer | None = self._connected.get(lease.engine)
        if peer is None or peer.is_ended:
            hello = replace(self._hello, ticket=lease.ticket, engine=lease.engine)
            peer = self._attempt(lambda: self._dial(lease.address, hello, f"Engine {lease.engine}"))
            if peer is not None:
                self._connected[lease.engine] = peer
                self._owner.open_peer(peer)
        if peer is not None:
            self._held[lease.lease] = peer
            return True
        self._attempt(lambda: self._client.release_leases(LeaseList(self._hello.source, (lease.lease,))))
        return False

    def _open_backlog(self, access: BacklogAccess) -> None:
        try:
            peer = self._dial(access.address, replace(self._hello, ticket=access.ticket), "The backlog")
        except HarmonicIOError as error:
            self._access = None  # The ticket may be too old, or the master at another port: the next grant tells.
            self._dial_at = time.monotonic() + (
                RETRY_FIRST_S if isinstance(error, NotAllowed) else self._trouble.pause_s(error)
            )
        else:
            self._trouble.over()
            self._dial_at = time.monotonic() + RETRY_FIRST_S
            self._owner.open_peer(peer)

    def _dial(self, address: Address, hello: Hello, name: str) -> Peer:
        is_local = address.host in ("localhost", "::1") or address.host.startswith("127.")
        is_checked = self._checksum_mode is ChecksumMode.ALWAYS or (
            self._checksum_mode is ChecksumMode.AUTO and not is_local
        )
        link = Link(tcp.dial(address, timeout_s=DIAL_WITHIN_S), Role.CONNECTOR)
        try:
            answer = link.greet(replace(hello, checksums=checksum.SUPPORTED if is_checked else ()))
        except BaseException:
            link.close()
            raise
        largest = answer.max_message_bytes or MAX_MESSAGE_BYTES
        chosen = answer.checksums[0] if answer.checksums else ""
        return Peer(
            link,
            Lane(f"{name} at {address}", is_backlog=not hello.engine, max_message_bytes=largest),
            checksum_flag=int(checksum.FLAG_OF[chosen]) if is_checked and chosen in checksum.SUPPORTED else 0,
        )

    def _attempt(self, action: Callable[[], Answer]) -> Answer | None:
        """Do what is not essential; what goes wrong is noted."""
        try:
            return action()
        except HarmonicIOError as error:
            _log.info("%s", error)
            return None


class _Trouble:
    """How long the master has not been reached: the pauses grow, and people hear of it once.

    Args:
        url: The master's address, for the warning.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._failures = 0
        self._since: float | None = None
        self._has_warned = False

    def over(self) -> None:
        """It was reached."""
        if self._has_warned:
            _log.warning("The master at %s answers again.", self._url)
        self._failures, self._since, self._has_warned = 0, None, False

    def pause_s(self, error: HarmonicIOError) -> float:
        """Return how long to wait after this failure."""
        now = time.monotonic()
        self._failures += 1
        self._since = now if self._since is None else self._since
        if now - self._since >= WARN_AFTER_S and not self._has_warned:
            self._has_warned = True
            _log.warning("%s Trying again at %s; messages wait in memory meanwhile.", error.text, self._url)
        pause_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)
        if isinstance(error, Unavailable) and error.retry_after_s is not None:
            return max(pause_s, min(error.retry_after_s, RETRY_MAX_S))
        return pause_s
