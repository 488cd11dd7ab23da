"""Who may ask for what on the control plane.

Every bearer token has one role. ``ADMIN`` may do everything; each route names the other roles that may use it.
"""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """The role of a token, by who holds it.

    admin     a person who declares streams and makes tokens
    source    a stream connector: leases, and the outcomes of its messages
    worker    a controller: registration, reports, desired engines
    engine    one processing engine, proved by its ticket: what its plugins write for its own stream
    viewer    a person or a monitor who only looks, also into the logs of engines
    """

    ADMIN = "admin"
    SOURCE = "source"
    WORKER = "worker"
    ENGINE = "engine"
    VIEWER = "viewer"

    @property
    def can_have_token(self) -> bool:
        """Engines prove themselves by the ticket that their controller signs, never by a stored token."""
        return self is not Role.ENGINE
