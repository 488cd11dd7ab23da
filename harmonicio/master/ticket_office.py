"""Where tickets are made and checked on the master's side.

The kinds of ticket and their keys are drawn in :mod:`harmonicio.control.tickets`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harmonicio.control import tickets
from harmonicio.control.messages import Lease
from harmonicio.core.clock import Clock
from harmonicio.core.errors import InvalidInput, NotAllowed
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.names import check_name
from harmonicio.core.roles import Role
from harmonicio.master.state import Granted
from harmonicio.master.tokens import Identity

#: How long a connector may open new connections to the backlog with one ticket.
INTAKE_TERM_S = 3600.0


class TicketOffice:
    """Signs lease and intake tickets; checks intake and engine tickets. Safe to use from several threads.

    Args:
        is_token_known: Whether the bearer token with this mark has not been revoked.

    Attributes:
        epoch: Lease and intake tickets of an older epoch are refused.
    """

    def __init__(self, key_hex: str, *, epoch: int, clock: Clock, is_token_known: Callable[[str], bool]) -> None:
        self._key = key_hex
        self._clock = clock
        self._is_token_known = is_token_known
        self.epoch = epoch

    def __repr__(self) -> str:
        return f"<TicketOffice epoch={self.epoch}>"

    def worker_key(self, worker: str) -> str:
        """Return the key from which a controller derives the keys of its engines."""
        return tickets.derive_key(self._key, "worker", worker)

    def lease(self, granted: Granted, term_s: float) -> Lease:
        """Return a lease with its ticket, signed for its engine."""
        held = granted.held
        claims = replace(
            self._claims(TicketKind.LEASE, held.stream, held.source, term_s), lease=held.lease, engine=held.engine
        )
        ticket = tickets.sign(tickets.engine_key(self._key, granted.worker, held.engine), claims)
        return Lease(held.lease, held.engine, granted.address, ticket, term_s, granted.socket)

    def intake_ticket(self, stream: str, source: str, token: str) -> str:
        """Return a ticket with which a source may put messages of a stream into the backlog.

        Args:
            token: The mark of the bearer token with which the source asks; empty for an engine's.
        """
        claims = replace(self._claims(TicketKind.INTAKE, stream, source, INTAKE_TERM_S), token=token)
        return tickets.sign(self._key, claims)

    def verify_intake_ticket(self, ticket: str) -> Claims:
        """Return what an intake ticket says: its source may put messages of its stream into the backlog.

        Raises:
            NotAllowed: it is none of ours, too old or revoked.
        """
        claims = tickets.verify(self._key, ticket, TicketKind.INTAKE, wall_s=self._clock.wall())
        if self.is_revoked(claims):
            raise NotAllowed("The intake ticket was revoked.", hint="Ask the master for a new one.")
        return claims

    def is_revoked(self, claims: Claims) -> bool:
        """Whether what an intake ticket allowed has been forbidden since."""
        return claims.epoch < self.epoch or (bool(claims.token) and not self._is_token_known(claims.token))

    def verify_engine_ticket(self, worker: str, engine: str, ticket: str) -> Claims:
        """Return what an engine's ticket says (its stream), when that engine's controller has signed it.

        Engine tickets have no epoch: they prove who an engine is, and what it may do ends with its controller's word.

        Raises:
            NotAllowed: it was not signed for this engine of this worker.
        """
        try:
            key = tickets.engine_key(self._key, check_name("worker", worker), check_name("engine", engine))
        except InvalidInput as error:
            raise NotAllowed(error.text, hint=error.hint) from None
        claims = tickets.verify(key, ticket, TicketKind.ENGINE, wall_s=self._clock.wall())
        if claims.engine != engine:
            raise NotAllowed("The engine ticket was made for another engine.")
        return claims

    def identify_engine(self, bearer: str) -> Identity | None:
        """Return the engine that presents this bearer token on the control plane; ``None``: it is no engine's.

        Raises:
            NotAllowed: it looks like an engine's, but its ticket is not good.
        """
        parts = tickets.split_engine_bearer(bearer)
        if parts is None:
            return None
        worker, engine, ticket = parts
        claims = self.verify_engine_ticket(worker, engine, ticket)
        return Identity(engine, Role.ENGINE, worker=worker, engine=engine, stream=claims.stream)

    def _claims(self, kind: TicketKind, stream: str, source: str, term_s: float) -> Claims:
        return Claims(kind, stream, term_s, issued_at=self._clock.wall(), epoch=self.epoch, source=source)
