"""Processing engines, as their controllers report them."""

from __future__ import annotations

from harmonicio.control import paths
from harmonicio.control.messages import EngineView
from harmonicio.master.endpoint import LOOKING, Call, Routes
from harmonicio.master.master import Master

routes = Routes("engines")


@routes.get(paths.ENGINES, LOOKING, answer=tuple[EngineView, ...])
def list_all(master: Master, call: Call) -> tuple[EngineView, ...]:
    """List all engines with their state and worker."""
    return master.engine_views()


@routes.get(paths.ENGINE, LOOKING, answer=EngineView)
def show(master: Master, call: Call) -> EngineView:
    """Show one engine."""
    return master.engine_view(call.names["engine"])
