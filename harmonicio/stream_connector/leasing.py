"""The connector's control thread: asks the master for leases, opens connections, renews, gives back.

It does everything that may wait for the master, and has connections dialled. While the master is away, live
connections go on and this thread tries again with growing pauses; when nothing at all can be reached for some seconds,
a warning names the address.

      asked ──► granted ──dial──► connected ──renewed every third of the term──► …
                   │                  │
                   └── no answer ─────┴── idle for a term, connection ended, close ──► released
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from harmonicio import __version__
from harmonicio.control.messages import BacklogAccess, Lease, LeaseGrant, LeaseList, LeaseRenewal, LeaseRequest
from harmonicio.core.errors import Conflict, HarmonicIOError, NotAllowed, NotFound
from harmonicio.core.lease import LEASE_TERM_S
from harmonicio.core.settings import ChecksumMode
from harmonicio.stream_connector.arena_slots import ArenaSlots
from harmonicio.stream_connector.dialling import Dialling
from harmonicio.stream_connector.patience import MIN_PATIENCE_S
from harmonicio.stream_connector.peers import Peer
from harmonicio.stream_connector.trouble import RETRY_FIRST_S, RETRY_MAX_S, Trouble
from harmonicio.transport.credentials import TlsCredentials
from harmonicio.wire.events import Hello, Role
from harmonicio.wire.frames import VERSION

_log = logging.getLogger(__name__)

LEASES_PER_REQUEST = 16
#: How long the first connection to an engine is waited for before the backlog is dialled.
FIRST_WITHIN_S = 0.5
#: The backlog among the connections that are dialled; the others are named by their leases.
BACKLOG = "backlog"
#: The pause between two requests, even if the master says that there is more to have.
ASK_EVERY_S = 0.01
LOOK_EVERY_S = 1.0
#: After that, a connector that closes gives no leases back any more: the master does not answer.
RELEASE_WITHIN_S = 1.0


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

    def engines_lacking(self) -> int:
        """How many engines more could be used now."""
        ...

    def engines_expected(self, from_s: float) -> None:
        """More engines may come from this time on, not before."""
        ...

    def open_peer(self, peer: Peer) -> None: ...

    def end_idle(self, idle_s: float) -> None:
        """Close the engine connections that were idle for so long."""
        ...

    def engine_gone(self, peer: Peer) -> None:
        """The master says that this engine is gone: its messages are sent elsewhere."""
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
        self,
        owner: LeasingOwner,
        client: LeaseClient,
        slots: ArenaSlots,
        checksum_mode: ChecksumMode,
        tls: TlsCredentials,
        *,
        stream: str,
        source: str,
    ) -> None:
        self._owner = owner
        self._client = client
        self._hello = Hello(
            Role.CONNECTOR, stream=stream, source=source, software=f"harmonicio {__version__}", versions=(VERSION,)
        )
        self._changed = threading.Condition()
        self._is_kicked = False
        self._is_closing = self._is_asking_first = False
        self._access: BacklogAccess | None = None
        self._term_s = LEASE_TERM_S
        self._held: dict[str, Peer] = {}
        self._opening: dict[str, Lease] = {}
        self._dialling = Dialling(source, checksum_mode, slots, self.kick, tls)
        self._connected: dict[str, Peer] = {}
        #: Whether there are connections without a lease, since the master forgot it.
        self._is_short = False
        #: Whether the master had fewer engines than were asked for.
        self._has_all = False
        self._ask_at = self._dial_at = self._engines_first_until = 0.0
        self._renew_at = math.inf
        self._trouble = Trouble(client.url)
        #: Of the data port alone: the master may answer over REST all the while.
        self._backlog_trouble = Trouble(client.url)
        self.lease_requests = 0
        self._thread = threading.Thread(target=self._run, name=f"{source}-leases", daemon=True)

    def __repr__(self) -> str:
        return f"<Leasing at {self._client.url}: {len(self._held)} held, {self.lease_requests} requests>"

    @property
    def trouble(self) -> str:
        """Why the master cannot be reached just now; empty when it can, as far as known."""
        return self._trouble.text or self._backlog_trouble.text

    @property
    def away_s(self) -> float:
        """How long the master has not been reached; 0 while it can be, as far as known."""
        return max(self._trouble.lasts_s, self._backlog_trouble.lasts_s)

    def start(self, *, asks_first: bool = True) -> None:
        """Ask for leases once, so that what can never work is said at once, then go on in a thread.

        Args:
            asks_first: Without, nothing is waited for, and the owner hears of a refusal like of any later one.

        Raises:
            NotAllowed, NotFound: the master does not let this source send to this stream.
        """
        if asks_first:
            self._is_asking_first = True
            try:
                self._ask(is_first=True)
            finally:
                self._is_asking_first = False
            self._dialling.wait_for_one(FIRST_WITHIN_S)
            self._take_connections()
        self._thread.start()

    def kick(self) -> None:
        """Look at what is wanted."""
        with self._changed:
            self._is_kicked = True
            self._changed.notify()

    def cut(self) -> None:
        """Let :meth:`start`, on another thread, wait no longer for the master's first answer."""
        if self._is_asking_first:
            self._client.close()

    def close(self) -> None:
        """Give all leases back and end all threads; a request that runs is waited for."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.ident is None:
            self._finish()
        else:
            self._thread.join(RELEASE_WITHIN_S)
            self._client.close()  # It answers no further question of a thread that is still there.
            self._thread.join()

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
        self._finish()

    def _finish(self) -> None:
        self._dialling.close()
        self._release([*self._held, *self._opening])
        self._client.close()

    def _pause_s(self, now: float) -> float:
        due = [now + LOOK_EVERY_S, self._renew_at]
        if self._ask_at > now or self._wants_leases():  # Before that time, nobody says that engines are wanted.
            due.append(self._ask_at)
        if self._wants_backlog():
            due.append(self._ask_at if self._access is None else self._backlog_at)
        return max(0.001, min(due) - now)

    def _step(self, now: float) -> None:
        self._take_connections()
        self._release([lease for lease, peer in self._held.items() if peer.is_ended])
        self._connected = {engine: peer for engine, peer in self._connected.items() if not peer.is_ended}
        if now >= self._ask_at and (self._wants_leases() or (self._access is None and self._wants_backlog())):
            self._ask()
        if self._access is not None and now >= self._backlog_at and self._wants_backlog():
            hello = replace(self._hello, ticket=self._access.ticket)
            self._dialling.begin(BACKLOG, self._access.address, hello)
        if now >= self._renew_at:
            self._renew()

    def _wants_leases(self) -> bool:
        return self._is_short or self._owner.wants_engines()

    @property
    def _backlog_at(self) -> float:
        """When the backlog may be dialled: what has waited long enough would not wait for an engine that comes next."""
        return max(self._dial_at, self._engines_first_until)

    def _wants_backlog(self) -> bool:
        return BACKLOG not in self._dialling and self._owner.wants_backlog()

    # ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask(self, *, is_first: bool = False) -> None:
        self.lease_requests += 1
        held, lacking = (*self._held, *self._opening), self._lacking()
        try:
            grant = self._client.request_leases(
                LeaseRequest(self._hello.stream, self._hello.source, lacking, held=held)
            )
        except (NotAllowed, NotFound) as error:
            if is_first:
                raise
            self._owner.refused(error)
            self._ask_at = time.monotonic() + RETRY_MAX_S
            self._owner.engines_expected(self._ask_at)
            return
        except HarmonicIOError as error:
            self._ask_at = time.monotonic() + self._trouble.pause_s(error)
            self._owner.engines_expected(self._ask_at)
            return
        self._trouble.over()
        self._access, self._is_short = grant.backlog, False
        self._ask_at = time.monotonic() + max(grant.retry_after_s, ASK_EVERY_S)
        for lease in grant.leases:
            self._open_engine(lease)
        if grant.leases:
            self._term_s = grant.leases[0].term_s
            self._renew_at = min(self._renew_at, time.monotonic() + self._term_s / 3)
        self._owner.granted(grant)
        self._has_all = len(grant.leases) < lacking
        self._tell_expected()

    def _tell_expected(self) -> None:
        is_expecting = self._opening or not self._has_all
        self._owner.engines_expected(0.0 if is_expecting else self._ask_at)

    def _lacking(self) -> int:
        """Return how many leases to ask for."""
        if self._is_short:
            return LEASES_PER_REQUEST
        return min(self._owner.engines_lacking(), LEASES_PER_REQUEST)

    def _renew(self) -> None:
        self._renew_at = time.monotonic() + self._term_s / 3
        self._owner.end_idle(self._term_s)
        if not self._held:
            return
        held = LeaseList(self._hello.source, tuple(self._held))
        try:
            renewal = self._client.renew_leases(held)
        except (NotFound, Conflict):
            renewal = LeaseRenewal((), held.leases)
        except HarmonicIOError as error:
            _log.info("%s", error)
            return
        for lease in renewal.ended:
            peer = self._held.pop(lease, None)
            if peer is not None and lease in renewal.gone:
                self._owner.engine_gone(peer)
            elif peer is not None and not peer.lane.is_draining:
                # Its connection goes on; new leases are asked for so that the master knows of it after a restart.
                self._is_short = True

    def _release(self, leases: Iterable[str]) -> None:
        released = tuple(leases)
        for lease in released:
            self._held.pop(lease, None)
        if not released:
            return
        try:
            self._client.release_leases(LeaseList(self._hello.source, released))
        except HarmonicIOError as error:
            _log.info("%s", error)  # It ends with its term.

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _open_engine(self, lease: Lease) -> None:
        """Use the connection to this engine that there is, or have one dialled."""
        peer = self._connected.get(lease.engine)
        if peer is not None and not peer.is_ended:
            self._held[lease.lease] = peer
        else:
            hello = replace(self._hello, ticket=lease.ticket, engine=lease.engine)
            self._dialling.begin(lease.lease, lease.address, hello, lease.socket)
            self._opening[lease.lease] = lease
            self._engines_first_until = time.monotonic() + FIRST_WITHIN_S

    def _take_connections(self) -> None:
        """Use what has been dialled; give the lease back where that did not work."""
        taken = self._dialling.take()
        for key, outcome in taken.items():
            if key == BACKLOG:
                self._backlog_dialled(outcome)
                continue
            lease = self._opening.pop(key)
            if isinstance(outcome, Peer):
                self._held[key] = self._connected[lease.engine] = outcome
                self._owner.open_peer(outcome)
                self._engines_first_until = time.monotonic() + MIN_PATIENCE_S  # Its credit comes in a moment.
            else:
                _log.info("%s", outcome)
                self._ask_at = max(self._ask_at, time.monotonic() + RETRY_FIRST_S)
                self._release([key])
                if not self._opening and not self._held:
                    self._engines_first_until = 0.0
        if taken:
            self._tell_expected()

    def _backlog_dialled(self, outcome: Peer | HarmonicIOError) -> None:
        if isinstance(outcome, Peer):
            self._trouble.over()
            self._backlog_trouble.over()
            self._dial_at = time.monotonic() + RETRY_FIRST_S
            self._owner.open_peer(outcome)
            return
        self._access = None  # The ticket may be too old, or the master at another port: the next grant tells.
        pause_s = (
            RETRY_FIRST_S
            if isinstance(outcome, NotAllowed)
            else min(self._backlog_trouble.pause_s(outcome), LOOK_EVERY_S)
        )
        self._dial_at = time.monotonic() + pause_s
