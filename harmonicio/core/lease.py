"""Leases and the claims of their tickets.

A lease is a connector's right to send to one engine; its ticket is the signed proof that the connector presents when
it opens a data connection. Three kinds of ticket exist, one for each kind of data connection:

    lease    connector -> engine    names lease, stream, engine and source
    intake   connector -> master    names stream and source
    engine   engine    -> master    names engine and stream (the master pushes the backlog over this connection)
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import StrEnum

LEASE_TERM_S = 60.0
#: An unpresented ticket is judged by wall clocks, which may differ between hosts by this much.
WALL_CLOCK_TOLERANCE_S = 15 * 60.0


class TicketKind(StrEnum):
    LEASE = "lease"
    INTAKE = "intake"
    ENGINE = "engine"


@dataclass(frozen=True, slots=True)
class Claims:
    """What a ticket says.

    ``issued_at`` is wall-clock seconds since the epoch, ``term_s`` a duration; ``token`` marks the bearer token with
    which the ticket was asked for, where that can be revoked.
    """

    kind: TicketKind
    stream: str
    term_s: float
    issued_at: float
    epoch: int
    lease: str = ""
    engine: str = ""
    source: str = ""
    token: str = ""


def is_loopback(host: str) -> bool:
    """Whether an address or a name stands for this host itself, as far as one can tell without asking anybody."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a data port listens, and whether it speaks TLS there."""

    host: str
    port: int
    speaks_tls: bool = False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for all addresses of a host: others reach that by one of its own."""
        return self.host in ("0.0.0.0", "::")

    @property
    def is_loopback(self) -> bool:
        """Whether what is sent there never leaves this host: then it needs no checksum on its way."""
        return is_loopback(self.host)
