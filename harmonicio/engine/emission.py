"""What handlers emit, on its way to other streams.

    handler returned, plugins have committed ──► deliver ──► a stream connector for each target ──► all safe ──► done
                                                    ├── not in time ──► rejected: emitted again, under the same ids,
                                                    │                   when the parent is offered again
                                                    └── never ────────► failed

The parent is done when all that it emitted is safe, and its handler's slot is held until then: the message still runs,
so time-outs, drains and the rules for its buffer cover the wait. What becomes of an emitted message later is the
business of its own stream. A connector that could not make a message safe is closed and forgotten, with all that it
still has: whoever emitted that emits it again, too. A thread of its own closes it, because that may take seconds, and
the slot waits for nothing beyond :data:`ANSWERED_WITHIN` of the time for keeping. No room, and nobody there, is no
fault of the parent and counts no attempt, however long it lasts.

Nothing is sent to this engine itself: such a message would wait for the slot that its own parent holds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from harmonicio.control.messages import LeaseGrant, LeaseList, LeaseRenewal, LeaseRequest
from harmonicio.core.errors import (
    ConfigurationError,
    DeliveryError,
    HarmonicIOError,
    InvalidInput,
    MessageRejected,
    NotAllowed,
    NotFound,
    Unavailable,
)
from harmonicio.core.message import RejectReason
from harmonicio.core.stream import keeping_timeout_s
from harmonicio.engine.message import Emission
from harmonicio.engine.plugin import NotKept
from harmonicio.transport.credentials import NO_CREDENTIALS, TlsCredentials
from harmonicio.transport.thread_pool import ThreadPool

if TYPE_CHECKING:
    from harmonicio.stream_connector import Delivery, StreamConnector
    from harmonicio.stream_connector.leasing import LeaseClient

_log = logging.getLogger(__name__)

MAX_TARGETS = 64
#: A slot is held meanwhile, so no engine is waited for longer than that.
PATIENCE_S = 0.05
#: Of the time that a message may take to be kept, what emitting leaves for the answer.
ANSWERED_WITHIN = 0.9
#: Whoever waits has a bound in time; what one message may emit has one in bytes.
_UNBOUNDED_BYTES = 2**50
#: The pause before the master is asked again when only this engine was to be had.
ASK_AGAIN_S = 1.0


class Emitter:
    """Makes emitted messages safe; called by as many threads as the stream has concurrency.

    Args:
        new_client: Makes a client of the master that acts as this engine.
        engine: This engine's id.
        timeout_s: The stream's.
        tls: What its connectors show, and whom they believe, over TLS.
    """

    def __init__(
        self,
        new_client: Callable[[], LeaseClient],
        engine: str,
        timeout_s: float,
        *,
        tls: TlsCredentials = NO_CREDENTIALS,
    ) -> None:
        self._new_client = new_client
        self._engine = engine
        self._timeout_s = timeout_s
        self._tls = tls
        self._lock = threading.Lock()
        self._connectors: dict[str, StreamConnector] = {}
        self._endings: ThreadPool | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Emitter to {', '.join(self._connectors) or 'nobody yet'}{', closed' if self._is_closed else ''}>"

    def deliver(self, emissions: Sequence[Emission], returned_at: float) -> None:
        """Send these and wait until all of them are safe.

        Args:
            returned_at: When their parent's handler returned, on the monotonic clock.

        Raises:
            NotFound, NotAllowed, InvalidInput: one can never be sent.
            NotKept: nobody takes them now.
        """
        until = returned_at + ANSWERED_WITHIN * keeping_timeout_s(self._timeout_s)
        sent: dict[StreamConnector, list[Delivery]] = {}
        for emission in emissions:
            with self._answering_for(emission.stream) as connector:
                if time.monotonic() >= until:
                    raise Unavailable(f"It was not sent in time, nor what follows {emission.id!r}.")
                sent.setdefault(connector, []).append(_send(connector, emission))
        for connector, deliveries in sent.items():
            with self._answering_for(connector.stream, connector):
                _wait(connector, deliveries, until)
            for delivery in deliveries:
                _check(connector.stream, delivery)

    def close(self) -> None:
        """End the connectors, and the wait of whoever is in :meth:`deliver`."""
        with self._lock:
            self._is_closed = True
            connectors = list(self._connectors.values())
        for connector in connectors:
            self._forget(connector)
        if self._endings is not None:
            self._endings.shutdown()

    @contextmanager
    def _answering_for(self, stream: str, used: StreamConnector | None = None) -> Iterator[StreamConnector]:
        """Give the connector to a stream; what goes wrong with it is told as the parent's: for good, or for now."""
        connector = used
        try:
            connector = used or self._connector_to(stream)
            yield connector
        except HarmonicIOError as error:
            if connector is not None:
                self._forget(connector)
            kind = type(error) if isinstance(error, (NotFound, NotAllowed, ConfigurationError)) else NotKept
            text = f"What was emitted into stream {stream!r} is not safe: {error.text}"
            raise kind(text, hint=error.hint) from error

    # ── connectors ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _connector_to(self, stream: str) -> StreamConnector:
        with self._lock:
            if self._is_closed:
                raise Unavailable("The engine ends.")
            connector = self._connectors.get(stream)
            if connector is None:
                if len(self._connectors) >= MAX_TARGETS:
                    raise ConfigurationError(f"One engine emits into {MAX_TARGETS} streams at most.")
                connector = self._connectors[stream] = self._new_connector(stream)
        return connector

    def _new_connector(self, stream: str) -> StreamConnector:
        from harmonicio.stream_connector import StreamConnector

        if self._endings is None:
            self._endings = ThreadPool(1, "engine-emission-ends")
        return StreamConnector(
            stream,
            client=_OthersLeases(self._new_client(), self._engine),
            byte_budget_bytes=_UNBOUNDED_BYTES,
            patience_s=PATIENCE_S,
            keeps_outcomes=False,
            asks_first=False,
            tls=self._tls,
        )

    def _forget(self, connector: StreamConnector) -> None:
        with self._lock:
            if self._endings is not None and self._connectors.get(connector.stream) is connector:
                del self._connectors[connector.stream]
                self._endings.submit(_end, connector)


def _end(connector: StreamConnector) -> None:
    try:
        connector.close(timeout_s=0.0)
    except DeliveryError as error:
        _log.info("What this engine emitted is given up, to be emitted again: %s", error)
    except Exception:  # noqa: BLE001  nobody awaits this; a bug here is logged
        _log.exception("A connector of what this engine emitted did not end in order")


def _send(connector: StreamConnector, emission: Emission) -> Delivery:
    return connector.send(
        emission.payload, metadata=emission.metadata, priority=emission.priority, message_id=emission.id
    )


def _wait(connector: StreamConnector, deliveries: Sequence[Delivery], until: float) -> None:
    if connector.wait_until_safe(deliveries, max(0.0, until - time.monotonic())):
        return
    missing = [each.message_id for each in deliveries if not each.is_safe]
    raise Unavailable(
        f"Neither an engine nor the backlog took {len(missing)} of {len(deliveries)} messages in time, "
        f"the first is {missing[0]!r}.",
        hint="See: harmonicio status",
    )


def _check(stream: str, delivery: Delivery) -> None:
    error = delivery.error()
    if not isinstance(error, MessageRejected):
        return  # What its handler made of it is its own stream's business.
    if error.reason == RejectReason.ID_CONFLICT:
        _log.info(
            "An earlier attempt has emitted %r into %s with other bytes, which count.", delivery.message_id, stream
        )
        return
    raise InvalidInput(f"Stream {stream!r} does not take what was emitted: {error.text}", hint=error.hint)


class _OthersLeases:
    """Asks the master for leases, and takes none on one engine.

    Args:
        engine: The engine that nothing is sent to.
    """

    def __init__(self, client: LeaseClient, engine: str) -> None:
        self._client = client
        self._engine = engine
        self.url = client.url

    def request_leases(self, request: LeaseRequest) -> LeaseGrant:
        grant = self._client.request_leases(request)
        others = tuple(lease for lease in grant.leases if lease.engine != self._engine)
        if others == grant.leases:
            return grant
        own = tuple(lease.lease for lease in grant.leases if lease.engine == self._engine)
        self._client.release_leases(LeaseList(request.source, own))
        pause_s = grant.retry_after_s if others else max(grant.retry_after_s, ASK_AGAIN_S)
        return replace(grant, leases=others, retry_after_s=pause_s)

    def renew_leases(self, held: LeaseList) -> LeaseRenewal:
        return self._client.renew_leases(held)

    def release_leases(self, held: LeaseList) -> None:
        self._client.release_leases(held)

    def close(self) -> None:
        self._client.close()
