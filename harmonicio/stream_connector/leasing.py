"""The connector's control thread: asks the master for leases, opens connections, renews, gives back.

It does everything that may wait: REST requests and handshakes. While the master is away, live connections go on and
this thread tries again with growing pauses; a warning names the address.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from harmonicio import __version__
from harmonicio.control.messages import BacklogAccess, Lease, LeaseGrant, LeaseList, LeaseRenewal, LeaseRequest
from harmonicio.core.errors import HarmonicIOError, NotAllowed, NotFound, Unavailable
from harmonicio.core.lease import Address
from harmonicio.core.settings import ChecksumMode
from harmonicio.stream_connector.dispatch import Lane
from harmonicio.stream_connector.peer import Peer
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
WARN_AFTER_S = 5.0


class LeaseClient(Protocol):
    """What is asked of the master; :class:`~harmonicio.control.client.MasterClient` does it."""

    @property
    def url(self) -> str: ...

    def request_leases(self, request: LeaseRequest) -> LeaseGrant: ...

    def renew_leases(self, held: LeaseList) -> LeaseRenewal: ...

    def release_leases(self, held: LeaseList) -> None: ...

    def close(self) -> None: ...


class LeasingOwner(Protocol):
    """The connector, as this thread sees it."""

    def wants_engines(self) -> bool: ...

    def wants_backlog(self) -> bool: ...

    def open_peer(self, link: Link, lane: Lane, answer: Hello, lease: str) -> None: ...

    def peers(self) -> list[Peer]: ...

    def end_idle(self, idle_s: float) -> list[str]:
        """Close the connections that were idle for so long; return their leases."""
        ...

    def refused(self, error: HarmonicIOError) -> None:
        """The master will never give leases: sending makes no sense."""
        ...


class Leasing:
    """One thread that keeps the connector supplied with connections."""

    def __init__(
        self, owner: LeasingOwner, client: LeaseClient, *, stream: str, source: str, checksum_mode: ChecksumMode
    ) -> None:
        self._owner = owner
        self._client = client
        self._stream = stream
        self._source = source
        self._checksum_mode = checksum_mode
        self._changed = threading.Condition()
        self._is_kicked = False
        self._is_closing = False
        self._access: BacklogAccess | None = None
        self._term_s = 60.0
        self._leases: set[str] = set()
        self._renew_at = 0.0
        self._ask_again_at = 0.0
        self._dial_again_at = 0.0
        self._failures = 0
        self._trouble_since: float | None = None
        self._has_warned = False
        self.lease_requests = 0
        self._thread = threading.Thread(target=self._run, name=f"{source}-leases", daemon=True)

    def __repr__(self) -> str:
        return f"<Leasing of {len(self._leases)} leases at {self._client.url}>"

    def start(self) -> None:
        """Ask for a first lease, so that what can never work is said at once, then go on in a thread.

        Raises:
            NotAllowed, NotFound: the master does not let this source send to this stream.
        """
        self._step(is_first=True)
        self._thread.start()

    def kick(self) -> None:
        """Look at what is wanted."""
        with self._changed:
            self._is_kicked = True
            self._changed.notify()

    def close(self) -> None:
        """End the thread and give all leases back."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()
        if self._leases:
            self._attempt(lambda: self._client.release_leases(LeaseList(self._source, tuple(self._leases))))
            self._leases.clear()
        self._client.close()

    def lease_ended(self, lease: str) -> None:
        """Its connection broke: ask for another engine when one is needed."""
        self.kick()

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while not self._is_closing:
            self._step()
            with self._changed:
                self._changed.wait_for(lambda: self._is_kicked or self._is_closing, self._pause_s())
                self._is_kicked = False

    def _pause_s(self) -> float:
        now = time.monotonic()
        due = [now + 1.0]
        if self._leases:
            due.append(self._renew_at)
        if self._owner.wants_engines():
            due.append(self._ask_again_at)
        if self._owner.wants_backlog():
            due.append(self._dial_again_at)
        return max(0.005, min(due) - now)

    def _step(self, *, is_first: bool = False) -> None:
        now = time.monotonic()
        if now >= self._ask_again_at and (is_first or self._owner.wants_engines() or self._needs_access()):
            self._ask(is_first=is_first)
        if self._owner.wants_backlog() and self._access is not None and now >= self._dial_again_at:
            self._open_backlog(self._access)
        if self._leases and now >= self._renew_at:
            self._renew()

    def _needs_access(self) -> bool:
        return self._access is None and self._owner.wants_backlog()

    def _ask(self, *, is_first: bool) -> None:
        self.lease_requests += 1
        request = LeaseRequest(self._stream, self._source, LEASES_PER_REQUEST)
        try:
            grant = self._client.request_leases(request)
        except (NotAllowed, NotFound) as error:
            if is_first:
                raise
            self._owner.refused(error)
            self._ask_again_at = time.monotonic() + RETRY_MAX_S
            return
        except HarmonicIOError as error:
            self._ask_again_at = self._after_failure(error)
            return
        self._failures, self._trouble_since, self._has_warned = 0, None, False
        self._access = grant.backlog
        now = time.monotonic()
        self._ask_again_at = now + max(0.05, grant.retry_after_s)
        if grant.leases and not self._leases:
            self._renew_at = now + grant.leases[0].term_s / 3
        for lease in grant.leases:
            self._open_engine(lease)

    def _renew(self) -> None:
        idle = self._owner.end_idle(self._term_s)
        self._renew_at = time.monotonic() + self._term_s / 3
        if idle:
            self._attempt(lambda: self._client.release_leases(LeaseList(self._source, tuple(idle))))
            self._leases.difference_update(idle)
        open_leases = {peer.lease for peer in self._owner.peers()} & self._leases
        gone = self._leases - open_leases
        if gone:
            self._attempt(lambda: self._client.release_leases(LeaseList(self._source, tuple(gone))))
        self._leases = open_leases
        if open_leases:
            held = LeaseList(self._source, tuple(open_leases))
            renewal = self._attempt(lambda: self._client.renew_leases(held))
            if isinstance(renewal, LeaseRenewal):
                self._leases.difference_update(renewal.ended)

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _open_engine(self, lease: Lease) -> None:
        self._term_s = lease.term_s
        hello = Hello(
            Role.CONNECTOR, stream=self._stream, ticket=lease.ticket, source=self._source, engine=lease.engine
        )
        opened = self._attempt(lambda: self._dial(lease.address, hello))
        if opened is None:
            self._attempt(lambda: self._client.release_leases(LeaseList(self._source, (lease.lease,))))
            return
        link, answer = opened
        self._leases.add(lease.lease)
        self._owner.open_peer(link, Lane(f"engine {lease.engine}", is_backlog=False), answer, lease.lease)

    def _open_backlog(self, access: BacklogAccess) -> None:
        hello = Hello(Role.CONNECTOR, stream=self._stream, ticket=access.ticket, source=self._source)
        try:
            link, answer = self._dial(access.address, hello)
        except NotAllowed:
            self._access = None  # The ticket is too old: the next grant brings another one.
            self._dial_again_at = time.monotonic() + RETRY_FIRST_S
        except HarmonicIOError as error:
            self._dial_again_at = self._after_failure(error)
            self._access = None  # The master may come back at another port.
        else:
            self._owner.open_peer(link, Lane("the backlog", is_backlog=True), answer, "")

    def _dial(self, address: Address, hello: Hello) -> tuple[Link, Hello]:
        is_local = address.host in ("localhost", "::1") or address.host.startswith("127.")
        is_wanted = self._checksum_mode is ChecksumMode.ALWAYS or (
            self._checksum_mode is ChecksumMode.AUTO and not is_local
        )
        link = Link(tcp.dial(address, timeout_s=DIAL_WITHIN_S), Role.CONNECTOR)
        try:
            answer = link.greet(
                Hello(
                    hello.role,
                    stream=hello.stream,
                    ticket=hello.ticket,
                    source=hello.source,
                    engine=hello.engine,
                    checksums=checksum.SUPPORTED if is_wanted else (),
                    software=f"harmonicio {__version__}",
                    versions=(VERSION,),
                )
            )
        except BaseException:
            link.close()
            raise
        return link, answer

    # ── trouble ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _attempt(self, action: Callable[[], Answer]) -> Answer | None:
        """Do what is not essential; what goes wrong is noted."""
        try:
            return action()
        except HarmonicIOError as error:
            _log.info("%s", error)
            return None

    def _after_failure(self, error: HarmonicIOError) -> float:
        """Return when to try again, and warn once when it goes on for long."""
        now = time.monotonic()
        self._failures += 1
        self._trouble_since = self._trouble_since or now
        if now - self._trouble_since >= WARN_AFTER_S and not self._has_warned:
            self._has_warned = True
            _log.warning("%s Trying again at %s; messages wait in memory meanwhile.", error, self._client.url)
        pause_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(self._failures, 10)) * (0.5 + random.random() / 2)
        if isinstance(error, Unavailable) and error.retry_after_s is not None:
            pause_s = max(pause_s, error.retry_after_s)
        return now + pause_s
