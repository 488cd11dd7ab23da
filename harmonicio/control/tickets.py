"""Tickets: signed claims, and the keys that sign them.

    master's ticket key ── derive "worker", name ──► worker's key ── derive "engine", name ──► engine's key

    ticket    signed by         with                verified by
    lease     the master        the engine's key    that engine
    intake    the master        the master's key    the master's data port
    engine    the controller    the engine's key    the master (data port, and REST as a bearer)

A key reveals nothing of the key that it was derived from, so an engine can neither speak for its neighbours nor sign
for the master. Tickets are signed JSON, readable by whoever holds them; nothing in them is secret.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from itsdangerous import BadData, URLSafeSerializer

from harmonicio.control import json_codec
from harmonicio.core.errors import HarmonicIOError, NotAllowed
from harmonicio.core.lease import WALL_CLOCK_TOLERANCE_S, Claims, TicketKind

KEY_BYTES = 32
#: No ticket of ours comes near this; a longer text is refused before it is looked at.
MAX_TICKET_LENGTH = 4096
#: An engine serves one stream for life; its ticket outlives any sensible life of an engine.
ENGINE_TICKET_TERM_S = 365 * 24 * 3600.0

_BEARER_MARK = "engine"


def new_key() -> str:
    """Return a fresh random key as hex."""
    return os.urandom(KEY_BYTES).hex()


def derive_key(parent_hex: str, kind: str, name: str) -> str:
    """Return the key, as hex, of the ``kind`` ("worker", "engine") called ``name``: HMAC-SHA256 under its parent."""
    return hmac.new(bytes.fromhex(parent_hex), f"{kind}\0{name}".encode(), hashlib.sha256).hexdigest()


def engine_key(master_key_hex: str, worker: str, engine: str) -> str:
    """Return the key of an engine from the master's ticket key."""
    return derive_key(derive_key(master_key_hex, "worker", worker), "engine", engine)


def sign(key_hex: str, claims: Claims) -> str:
    """Return the ticket that proves ``claims`` to whoever holds the key."""
    ticket = _serializer(key_hex, claims.kind).dumps(json_codec.as_plain(claims))
    return ticket if isinstance(ticket, str) else ticket.decode()


def verify(key_hex: str, ticket: str, kind: TicketKind, *, wall_s: float, oldest_epoch: int = 0) -> Claims:
    """Return what the ticket says, when it can be believed.

    Whether the claims fit what the presenter says of itself (its stream, its source …) is the caller's to check.

    Args:
        key_hex: The key that the ticket must be signed with.
        ticket: As it was presented.
        kind: The kind of ticket that is wanted here.
        wall_s: The verifier's wall clock; it may differ from the signer's by ``WALL_CLOCK_TOLERANCE_S``.
        oldest_epoch: Tickets of an older epoch were revoked.

    Raises:
        NotAllowed: the ticket is not one, is not ours, is of another kind, too old, from the future or revoked.
    """
    if not ticket or len(ticket) > MAX_TICKET_LENGTH:
        raise _refused(f"No {kind} ticket was presented.")
    try:
        claims = json_codec.from_plain(Claims, _serializer(key_hex, kind).loads(ticket))
    except (BadData, HarmonicIOError, ValueError):
        raise _refused(f"The {kind} ticket is not valid here.") from None
    if claims.kind is not kind:
        raise _refused(f"A {claims.kind} ticket was presented where a {kind} ticket is needed.")
    if claims.epoch < oldest_epoch:
        raise _refused(f"The {kind} ticket was revoked.")
    if wall_s > claims.issued_at + claims.term_s + WALL_CLOCK_TOLERANCE_S:
        raise _refused(f"The {kind} ticket has expired.")
    # That of an engine holds for its life, and is shown again and again: a clock that is set back must not end it.
    if kind is not TicketKind.ENGINE and wall_s < claims.issued_at - WALL_CLOCK_TOLERANCE_S:
        raise NotAllowed(f"The {kind} ticket is from the future.", hint="Compare the clocks of the two hosts.")
    return claims


def engine_bearer(worker: str, engine: str, ticket: str) -> str:
    """Return what an engine sends as its bearer token on the control plane."""
    return f"{_BEARER_MARK}:{worker}:{engine}:{ticket}"


def split_engine_bearer(bearer: str) -> tuple[str, str, str] | None:
    """Return worker, engine and ticket of an engine's bearer token; ``None`` when it is of another make."""
    parts = bearer.split(":", 3)
    return (parts[1], parts[2], parts[3]) if len(parts) == 4 and parts[0] == _BEARER_MARK else None


def _serializer(key_hex: str, kind: TicketKind) -> URLSafeSerializer:
    return URLSafeSerializer(
        bytes.fromhex(key_hex),
        salt=f"harmonicio.ticket.{kind}",
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )


def _refused(text: str) -> NotAllowed:
    return NotAllowed(text, hint="Ask the master for a new one.")
