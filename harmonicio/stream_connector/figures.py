"""What a connector counts."""

from __future__ import annotations

from dataclasses import dataclass

from harmonicio.stream_connector.dispatch import Dispatch


@dataclass(frozen=True, slots=True)
class Figures:
    """What a connector has done so far: messages, except where the name says otherwise.

    Attributes:
        sent: Taken over by ``send``.
        safe: Processed by an engine, or stored by the master.
        processed, failed, rejected: Of those whose final outcome is known here.
        via_engine, via_backlog: Made safe peer to peer, or by the master.
        resent: Sent again because a connection broke or a receiver could not take it.
        waiting, waiting_bytes: Not under way yet, for want of credit.
        spooled: In the spool, where there is one.
        engines: Open connections to engines.
        lease_requests: Questions to the master.
    """

    sent: int
    safe: int
    processed: int
    failed: int
    rejected: int
    via_engine: int
    via_backlog: int
    resent: int
    waiting: int
    waiting_bytes: int
    spooled: int
    engines: int
    lease_requests: int


class Tally:
    """The counters behind :class:`Figures`; guarded by the connector's lock.

    ``refused`` came to rest without being safe; ``processed``, ``failed`` and ``rejected`` are final outcomes.
    """

    __slots__ = ("failed", "processed", "refused", "rejected", "sent", "via_backlog", "via_engine")

    def __init__(self) -> None:
        self.sent = self.via_engine = self.via_backlog = self.refused = 0
        self.processed = self.failed = self.rejected = 0

    def __repr__(self) -> str:
        return f"{self.sent} sent, {self.unsafe} not safe yet"

    @property
    def safe(self) -> int:
        return self.via_engine + self.via_backlog

    @property
    def unsafe(self) -> int:
        """Messages that have not come to rest."""
        return self.sent - self.via_engine - self.via_backlog - self.refused

    def figures(self, dispatch: Dispatch, lease_requests: int, spooled: int) -> Figures:
        """Return what has been done so far, with what waits."""
        return Figures(
            sent=self.sent,
            safe=self.safe,
            processed=self.processed,
            failed=self.failed,
            rejected=self.rejected,
            via_engine=self.via_engine,
            via_backlog=self.via_backlog,
            resent=dispatch.resent,
            waiting=dispatch.waiting,
            waiting_bytes=dispatch.waiting_bytes,
            spooled=spooled,
            engines=len(dispatch.engines),
            lease_requests=lease_requests,
        )
