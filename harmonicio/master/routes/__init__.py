"""The routes of the control plane, one module per noun. A new route is one small function here."""

from __future__ import annotations

from harmonicio.master.endpoint import Endpoint
from harmonicio.master.routes import audit, backlog, dead, engines, health, leases, status, streams, tokens, workers


def all_endpoints() -> list[Endpoint]:
    """Return every route of the master itself; extensions bring theirs."""
    modules = (health, status, workers, engines, streams, leases, backlog, dead, tokens, audit)
    return [endpoint for module in modules for endpoint in module.routes.endpoints]
