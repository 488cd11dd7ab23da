"""The whole cluster on one page."""

from __future__ import annotations

from dataclasses import replace

from harmonicio.control import paths
from harmonicio.control.messages import Status
from harmonicio.master.endpoint import LOOKING, Call, Routes
from harmonicio.master.master import Master
from harmonicio.master.routes.streams import shown_to

routes = Routes("status")


@routes.get(paths.STATUS, LOOKING, answer=Status)
def show(master: Master, call: Call) -> Status:
    """Show workers, engines, streams, and what the master has received."""
    status = master.status()
    return replace(status, streams=tuple(shown_to(call, each) for each in status.streams))
