"""The stream connector: sends each message of one stream to an engine, or to the backlog when none is free.

    send ──► Dispatch decides, under the lock ──► Peer writes, on the caller's thread when nothing waits
                 ▲                                    │
                 │ outcomes, credit                   │ what the kernel did not take
                 └──────────── Pump (I/O thread) ◄────┘
                                 ▲ new connections
                               Leasing (control thread) ◄──REST──► master

A connector has two threads, however many engines it sends to. It starts them when it is entered, or at the first send.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, Literal, Self

from harmonicio.core.errors import (
    HarmonicIOError,
    InvalidInput,
    LocalProtocolError,
    OutcomeTimeout,
    UndeliveredError,
)
from harmonicio.core.message import (
    MAX_MESSAGE_BYTES,
    MAX_PRIORITY,
    MIN_PRIORITY,
    MessageIds,
    Outcome,
    OutcomeKind,
    RejectReason,
)
from harmonicio.core.names import check_message_id, check_name
from harmonicio.core.settings import ChecksumMode
from harmonicio.stream_connector.delivery import Delivery, DeliveryState, Figures, state_after
from harmonicio.stream_connector.dispatch import Assignment, Dispatch, Lane, Parcel, Settled
from harmonicio.stream_connector.leasing import LeaseClient, Leasing
from harmonicio.stream_connector.payloads import file_view, payload_view
from harmonicio.stream_connector.peer import Peer
from harmonicio.stream_connector.progress import Progress
from harmonicio.stream_connector.pump import Pump
from harmonicio.transport.link import Link
from harmonicio.wire.checksum import FLAG_OF
from harmonicio.wire.events import Credit, Drain, Event, Hello, OutcomesReceived, ResultsReceived
from harmonicio.wire.sections import message_section

_log = logging.getLogger(__name__)

Level = Literal["safe", "processed"]

#: Messages whose final outcome is not known yet are remembered up to this many, for those who ask later.
MAX_REMEMBERED = 1_000_000


class StreamConnector:
    """Sends messages of one stream. Use it as a context manager; any thread may send.

    Args:
        stream: Name of the stream, which must be declared at the master.
        master: Address of the master, like ``http://127.0.0.1:8710``; from the settings when left out.
        token: Bearer token with the role ``source``; from the settings when left out.
        byte_budget_bytes: Payload bytes that may be unsafe before :meth:`send` blocks.
        patience_s: Seconds that a message waits for an engine before it goes to the backlog; measured when left out.
        checksum: ``auto`` (across hosts), ``always`` or ``never``.
        client: Asks the master, in place of a client made from ``master`` and ``token``.

    Raises:
        InvalidInput: a name or setting cannot be used.
        NotAllowed: there is no token.
    """

    def __init__(
        self,
        stream: str,
        *,
        master: str | None = None,
        token: str | None = None,
        byte_budget_bytes: int | None = None,
        patience_s: float | None = None,
        checksum: str | None = None,
        client: LeaseClient | None = None,
    ) -> None:
        self.stream = check_name("stream", stream)
        self.source = f"s-{os.urandom(6).hex()}"
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._ids = MessageIds()
        given = _from_settings(master, token, byte_budget_bytes, patience_s, checksum, client)
        self._dispatch = Dispatch(given.budget_bytes, given.patience_s)
        self._peers: dict[int, Peer] = {}
        self._pump = Pump(self, self.source)
        self._leasing = Leasing(
            self, given.client, stream=stream, source=self.source, checksum_mode=given.checksum_mode
        )
        self._opening = threading.Lock()
        self._is_open = False
        self._is_closed = False
        self._refusal: HarmonicIOError | None = None
        #: Stored messages whose final outcome is not known, and those among them that have been asked for.
        self._stored: dict[str, Delivery] = {}
        self._subscribed: set[str] = set()
        self._to_ask: list[str] = []
        self._wants_all_results = False
        self._unheard: list[Delivery] = []
        self._waiters = 0
        self._sent = self._safe = self._processed = self._failed = self._via_engine = self._via_backlog = 0
        self._unsafe = 0

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open" if self._is_open else "not open yet"
        return f"<StreamConnector {self.stream!r} {state}: {self._sent} sent, {self._unsafe} not safe yet>"

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            self.close()
            return
        try:
            self.close(timeout_s=1.0)
        except UndeliveredError as undelivered:
            _log.error("%s", undelivered)

    def _open(self) -> None:
        self._check_process()
        with self._opening:
            if self._is_open:
                return
            self._leasing.start()
            self._pump.start()
            self._is_open = True

    def close(self, timeout_s: float = 60.0) -> None:
        """Wait until every message is safe, then end all threads and connections.

        Raises:
            UndeliveredError: some were not safe in time; it names their ids.
        """
        self._check_process()
        if self._is_closed:
            return
        undelivered: list[Parcel] = []
        try:
            if self._is_open and self._refusal is None:
                self._wait(lambda: self._unsafe == 0, timeout_s)
        finally:
            with self._lock:
                self._is_closed = True
                undelivered = self._dispatch.withdraw_all()
                for parcel in undelivered:
                    parcel.delivery.released = True
                self._changed.notify_all()
            self._leasing.close()
            self._pump.close()
        if undelivered:
            ids = [parcel.delivery.message_id for parcel in undelivered]
            raise UndeliveredError(
                f"{len(ids)} messages of stream {self.stream!r} were not safe when the connector closed"
                f"{'' if self._refusal is None else f' ({self._refusal.text})'}; the first is {ids[0]!r}.",
                message_ids=ids,
                hint="Send them again, with message_id= so that a second copy is recognised.",
            )

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def send(
        self,
        payload: Any,
        *,
        metadata: Mapping[str, Any] | None = None,
        priority: int = 0,
        message_id: str | None = None,
        borrow: bool = False,
    ) -> Delivery:
        """Send one message; returns at once unless the byte budget is used up.

        Args:
            payload: Bytes, or any object with a contiguous buffer (a numpy array, for example).
            metadata: None, bool, int, float, str, bytes, lists and dicts with text keys; at most 64 KiB or so.
            priority: Larger goes first where messages wait, -32768 to 32767.
            message_id: The source's own id, unique in the stream, so that a repeated send is recognised.
            borrow: Do not copy a writable buffer; it must not change before ``delivery.released``.

        Raises:
            InvalidInput: something of it cannot be sent.
            NotFound, NotAllowed: the stream does not exist, or this source may not send to it.
        """
        view = payload_view(payload, borrow=borrow)
        return self._send(view, metadata, priority, message_id)

    def send_file(
        self,
        path: Path | str,
        *,
        metadata: Mapping[str, Any] | None = None,
        priority: int = 0,
        message_id: str | None = None,
    ) -> Delivery:
        """Send the content of a file, which is never in memory as a whole; it must not change until it is safe."""
        return self._send(file_view(path), metadata, priority, message_id)

    def send_many(
        self, payloads: Iterable[Any], *, is_progress_shown: bool = False, **options: Any
    ) -> Iterator[Delivery]:
        """Send each payload and yield its delivery.

        Args:
            payloads: As for :meth:`send`.
            is_progress_shown: Show a progress bar on standard error.
            options: As for :meth:`send`, the same for all.
        """
        total = len(payloads) if isinstance(payloads, Sized) else None
        with Progress("sent", total, is_shown=is_progress_shown) as progress:
            for payload in payloads:
                yield self.send(payload, **options)
                progress.advance()

    def _send(
        self, view: memoryview, metadata: Mapping[str, Any] | None, priority: int, message_id: str | None
    ) -> Delivery:
        if not self._is_open:
            self._open()
        if message_id is not None:
            check_message_id(message_id)
        if metadata:
            message_section(metadata, "", None)  # Whatever cannot be sent is the caller's to hear of.
        if not MIN_PRIORITY <= priority <= MAX_PRIORITY or view.nbytes > MAX_MESSAGE_BYTES:
            raise InvalidInput(f"The priority {priority} or the size of {view.nbytes} bytes is out of range.")
        with self._changed:
            delivery = Delivery(self, message_id or self._ids.draw(), view.nbytes)
            parcel = Parcel(delivery, view, metadata, priority)
            self._wait_for_room(parcel.cost_bytes)
            now = time.monotonic()
            self._dispatch.offer(parcel, now)
            self._sent += 1
            self._unsafe += 1
            touched = self._assign(now)
            is_waiting = self._dispatch.waiting > 0
        self._flush(touched)
        if is_waiting:
            self._pump.wake()
            self._leasing.kick()
        return delivery

    def _wait_for_room(self, cost_bytes: int) -> None:
        self._check_usable()
        if self._dispatch.has_room(cost_bytes):
            return
        self._waiters += 1
        try:
            while not self._dispatch.has_room(cost_bytes):
                self._changed.wait()
                self._check_usable()
        finally:
            self._waiters -= 1

    def _check_usable(self) -> None:
        if self._is_closed:
            raise InvalidInput("The connector is closed.", hint="Open a new one.")
        if self._refusal is not None:
            raise self._refusal
        self._check_process()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise LocalProtocolError(
                "The connector was opened in another process.", hint="Open connectors after forking, not before."
            )

    def _assign(self, now: float) -> set[Peer]:
        """Hand out what can be sent; called under the lock. Returns the peers that have something to write."""
        touched = set()
        for given in self._dispatch.assign(now):
            peer = self._peers[id(given.lane)]
            if self._is_too_large(given, peer):
                continue
            given.parcel.delivery.state = DeliveryState.IN_FLIGHT
            peer.assign(given)
            touched.add(peer)
        return touched

    def _is_too_large(self, given: Assignment, peer: Peer) -> bool:
        """What the other side would refuse is answered here in its place, without sending it."""
        if given.parcel.size_bytes <= peer.max_message_bytes:
            return False
        text = f"{given.parcel.size_bytes} bytes are more than the {peer.max_message_bytes} that the stream takes."
        outcome = Outcome(OutcomeKind.REJECTED, reason=RejectReason.TOO_LARGE, text=text)
        self._dispatch.take_back(given)
        self._settle(Settled(given.parcel, outcome, given.lane.is_backlog))
        return True

    def _flush(self, peers: Iterable[Peer]) -> None:
        for peer in peers:
            try:
                peer.flush()
            except HarmonicIOError as error:
                self._pump.end(peer, error)

    # ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def flush(self, until: Level = "processed", timeout_s: float | None = None) -> None:
        """Wait until every message sent so far is safe, or processed.

        Raises:
            OutcomeTimeout: it took longer than ``timeout_s`` seconds.
            HandlerFailed, MessageRejected, OutcomeExpired: a message that nobody awaited came to that end.
        """
        if until not in ("safe", "processed"):
            raise InvalidInput(f"One cannot flush until {until!r:.40}.", hint="Use 'safe' or 'processed'.")
        if until == "processed":
            self._ask_for_all_results()
        done = self._wait(lambda: self._unsafe == 0 and (until == "safe" or not self._stored), timeout_s)
        with self._lock:
            unheard, self._unheard = [each for each in self._unheard if not each.is_awaited], []
        if unheard:
            error = unheard[0].error()
            if error is not None:
                error.hint = f"{len(unheard)} messages failed in all. {error.hint}".strip()
                raise error
        if not done:
            raise OutcomeTimeout(
                f"{self._unsafe} messages are not safe and {len(self._stored)} not processed after {timeout_s} s."
            )

    def figures(self) -> Figures:
        """Return what this connector has done so far."""
        with self._lock:
            return Figures(
                sent=self._sent,
                safe=self._safe,
                processed=self._processed,
                failed=self._failed,
                via_engine=self._via_engine,
                via_backlog=self._via_backlog,
                resent=self._dispatch.resent,
                waiting=self._dispatch.waiting,
                waiting_bytes=self._dispatch.waiting_bytes,
                engines=len(self._dispatch.engines),
                lease_requests=self._leasing.lease_requests,
            )

    def _wait_for_result(self, delivery: Delivery, timeout_s: float | None) -> None:
        self._check_process()
        with self._lock:
            asking = self._ask_for([delivery.message_id] if delivery.state is DeliveryState.STORED else [])
        self._flush(asking)
        if not self._wait(lambda: delivery.is_done or self._is_closed, timeout_s) or not delivery.is_done:
            raise OutcomeTimeout(f"No outcome of message {delivery.message_id!r} has arrived; it is {delivery.state}.")

    def _wait(self, condition: Any, timeout_s: float | None) -> bool:
        with self._changed:
            self._waiters += 1
            try:
                return bool(self._changed.wait_for(lambda: condition() or self._refusal is not None, timeout_s))
            finally:
                self._waiters -= 1
                if self._refusal is not None and not condition():
                    raise self._refusal

    def _ask_for_all_results(self) -> None:
        with self._lock:
            self._wants_all_results = True
            asking = self._ask_for(list(self._stored))
        self._flush(asking)

    def _ask_for(self, message_ids: list[str]) -> set[Peer]:
        """Subscribe to final outcomes, under the lock; without a connection that is done when there is one."""
        new = [each for each in message_ids if each not in self._subscribed]
        peer = next((each for each in self._peers.values() if each.lane.is_backlog), None) if new else None
        if peer is None:
            return set()
        self._subscribed.update(new)
        peer.subscribe(new)
        return {peer}

    # ── what the I/O thread tells ────────────────────────────────────────────────────────────────────────────────────

    def peer_event(self, peer: Peer, event: Event) -> None:
        """Take an event of a peer; called by the pump."""
        now = time.monotonic()
        with self._changed:
            if isinstance(event, OutcomesReceived):
                for each in event.ranges:
                    for settled in self._dispatch.outcomes_received(
                        peer.lane, each.first, each.last, each.outcome, now
                    ):
                        self._settle(settled)
            elif isinstance(event, Credit):
                self._dispatch.credit_received(peer.lane, event.messages, event.bytes, now)
            elif isinstance(event, ResultsReceived):
                for result in event.results:
                    self._final(result.message_id, result.outcome)
            elif isinstance(event, Drain):
                self._dispatch.draining(peer.lane)
            else:
                raise LocalProtocolError(f"A sender does not expect {type(event).__name__}.")

    def peer_paused(self) -> None:
        """Send what the events have made possible; called by the pump."""
        with self._changed:
            touched = self._assign(time.monotonic())
            to_ask, self._to_ask = self._to_ask, []
            touched |= self._ask_for(to_ask)
            if self._waiters:
                self._changed.notify_all()
        self._flush(touched)

    def peer_ended(self, peer: Peer, error: HarmonicIOError) -> None:
        """Send again elsewhere what was in flight; called by the pump."""
        with self._changed:
            self._peers.pop(id(peer.lane), None)
            self._dispatch.lane_closed(peer.lane, time.monotonic())
            if peer.lane.is_backlog:
                self._subscribed.clear()
            touched = self._assign(time.monotonic())
            is_closed = self._is_closed
        if not is_closed:
            _log.info("The connection to %s ended: %s", peer.lane.name, error)
        self._flush(touched)
        self._leasing.kick()

    def next_due_s(self) -> float | None:
        """Seconds until waiting changes a decision; called by the pump."""
        with self._lock:
            return self._dispatch.next_due_s(time.monotonic())

    def time_passed(self) -> None:
        """Look at what is due; called by the pump."""
        now = time.monotonic()
        with self._lock:
            touched = self._assign(now)
            wants_backlog = self._dispatch.wants_backlog(now) or self._lacks_backlog_for_results()
        self._flush(touched)
        if wants_backlog:
            self._leasing.kick()

    def _settle(self, settled: Settled) -> None:
        """A parcel has come to rest, at an engine, at the master or nowhere; under the lock."""
        delivery, outcome = settled.parcel.delivery, settled.outcome
        delivery.route = "backlog" if settled.is_backlog else "engine"
        delivery.released = True
        self._unsafe -= 1
        if outcome.kind is OutcomeKind.STORED:
            self._safe += 1
            self._via_backlog += 1
            delivery.settle(DeliveryState.STORED, outcome)
            if len(self._stored) < MAX_REMEMBERED:
                self._stored[delivery.message_id] = delivery
            if delivery.is_awaited or self._wants_all_results:
                self._to_ask.append(delivery.message_id)
            return
        if outcome.kind is OutcomeKind.DONE:
            self._safe += 1
            self._via_engine += 1
        self._finish(delivery, outcome)

    def _final(self, message_id: str, outcome: Outcome | None) -> None:
        """The master says how a stored message ended; under the lock."""
        self._subscribed.discard(message_id)
        delivery = self._stored.pop(message_id, None)
        if delivery is not None:
            self._finish(delivery, outcome)

    def _finish(self, delivery: Delivery, outcome: Outcome | None) -> None:
        delivery.settle(state_after(outcome), outcome)
        if delivery.state is DeliveryState.DONE:
            self._processed += 1
            return
        self._failed += 1
        if not delivery.is_awaited and len(self._unheard) < MAX_REMEMBERED:
            self._unheard.append(delivery)
            _log.error("%s", delivery.error())

    # ── what the control thread asks and tells ───────────────────────────────────────────────────────────────────────

    def wants_engines(self) -> bool:
        with self._lock:
            return self._dispatch.wants_engines

    def wants_backlog(self) -> bool:
        with self._lock:
            return self._dispatch.wants_backlog(time.monotonic()) or self._lacks_backlog_for_results()

    def _lacks_backlog_for_results(self) -> bool:
        if not self._stored or any(each.lane.is_backlog for each in self._peers.values()):
            return False
        return self._wants_all_results or any(each.is_awaited for each in self._stored.values())

    def open_peer(self, link: Link, lane: Lane, answer: Hello, lease: str) -> None:
        """A connection is open: use it."""
        flag = int(FLAG_OF[answer.checksums[0]]) if answer.checksums and answer.checksums[0] in FLAG_OF else 0
        peer = Peer(
            link,
            lane,
            checksum_flag=flag,
            max_message_bytes=answer.max_message_bytes or MAX_MESSAGE_BYTES,
            lease=lease,
            on_blocked=self._pump.watch_writes,
        )
        with self._lock:
            self._peers[id(lane)] = peer
            self._dispatch.lane_opened(lane, time.monotonic())
            if lane.is_backlog:
                wanted = [
                    each.message_id for each in self._stored.values() if self._wants_all_results or each.is_awaited
                ]
                self._subscribed.clear()
                self._ask_for(wanted)
        self._pump.add(peer)
        self._flush([peer])

    def peers(self) -> list[Peer]:
        with self._lock:
            return list(self._peers.values())

    def end_idle(self, idle_s: float) -> list[str]:
        """Close engine connections that were idle for so long; return their leases."""
        now = time.monotonic()
        with self._lock:
            idle = [
                each
                for each in self._peers.values()
                if each.lease and not each.lane.in_flight and now - each.lane.active_at >= idle_s
            ]
            for peer in idle:
                self._dispatch.draining(peer.lane)
        for peer in idle:
            peer.say_goodbye()
            self._pump.end(peer, LocalProtocolError("It was idle for the term of its lease."))
        return [peer.lease for peer in idle]

    def refused(self, error: HarmonicIOError) -> None:
        """The master says that sending makes no sense."""
        with self._changed:
            if not self._peers:
                self._refusal = error
                self._changed.notify_all()
            else:
                _log.warning("%s", error)


class _Given:
    """What a connector was given, with the settings for the rest."""

    __slots__ = ("budget_bytes", "checksum_mode", "client", "patience_s")

    def __init__(self, budget_bytes: int, patience_s: float | None, mode: ChecksumMode, client: LeaseClient) -> None:
        self.budget_bytes = budget_bytes
        self.patience_s = patience_s
        self.checksum_mode = mode
        self.client = client


def _from_settings(
    master: str | None,
    token: str | None,
    byte_budget_bytes: int | None,
    patience_s: float | None,
    checksum: str | None,
    client: LeaseClient | None,
) -> _Given:
    from harmonicio.control.client import MasterClient
    from harmonicio.control.settings_files import load_settings, read_token
    from harmonicio.core.roles import Role

    settings = load_settings(
        flags={
            "master.url": master,
            "connector.byte_budget_bytes": byte_budget_bytes,
            "connector.patience_s": patience_s,
            "connector.checksum": checksum,
        }
    )
    if client is None:
        bearer = token if token is not None else read_token(settings, (Role.SOURCE, Role.ADMIN))
        client = MasterClient(settings.master.url, bearer)
    wanted = settings.connector
    return _Given(wanted.byte_budget_bytes, wanted.patience_s, wanted.checksum, client)
