"""The whole cluster on one page."""

from __future__ import annotations

from harmonicio.control import paths
from harmonicio.control.messages import Status
from harmonicio.master.endpoint import LOOKING, Call, Routes
from harmonicio.master.master import Master

routes = Routes("status")


@routes.get(paths.STATUS, LOOKING, answer=Status)
def show(master: Master, call: Call) -> Status:
    """Show workers, engines, streams, and what the master has received."""
    return master.status()
