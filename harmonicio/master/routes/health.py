"""Whether the master lives, and whether it takes requests: for probes, without a token."""

from __future__ import annotations

from harmonicio.control import paths
from harmonicio.control.messages import Health
from harmonicio.core.errors import Unavailable
from harmonicio.master.endpoint import Call, Routes
from harmonicio.master.master import Master

routes = Routes("health")


@routes.get(paths.HEALTH, None, answer=Health)
def live(master: Master, call: Call) -> Health:
    """Say that the process answers and is whole; 503 names what is gone of it."""
    master.check_parts()
    return Health("ok")


@routes.get(paths.READY, None, answer=Health)
def ready(master: Master, call: Call) -> Health:
    """Say whether requests are taken; 503 while the master starts or ends, or is not whole."""
    master.check_parts()
    if not master.is_ready:
        raise Unavailable("The master is not ready.", retry_after_s=1.0)
    return Health("ready")
