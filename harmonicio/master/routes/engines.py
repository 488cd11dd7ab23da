"""Processing engines, as their controllers report them."""

from __future__ import annotations

from dataclasses import dataclass

from harmonicio.control import paths
from harmonicio.control.log_messages import LogPart
from harmonicio.control.messages import EngineView
from harmonicio.core.roles import Role
from harmonicio.master.endpoint import LOOKING, Call, Routes
from harmonicio.master.master import Master

routes = Routes("engines")
#: What handlers print may hold what their messages hold, or secrets of theirs: it is for people who look after them.
READING = frozenset({Role.VIEWER})


@dataclass(frozen=True, slots=True)
class LogQuery:
    """The mark of the part before, and how long to wait until something comes after it."""

    after: str = ""
    wait_s: float = 0.0


@routes.get(paths.ENGINES, LOOKING, answer=tuple[EngineView, ...])
def list_all(master: Master, call: Call) -> tuple[EngineView, ...]:
    """List all engines with their state and worker."""
    return master.engine_views()


@routes.get(paths.ENGINE, LOOKING, answer=EngineView)
def show(master: Master, call: Call) -> EngineView:
    """Show one engine."""
    return master.engine_view(call.names["engine"])


@routes.get(paths.ENGINE_LOG, READING, answer=LogPart, query=LogQuery)
def show_log(master: Master, call: Call) -> LogPart:
    """Show what an engine has logged since a mark, or last; held until there is something, for `wait_s` (up to 10)."""
    return master.logs.read(call.names["engine"], call.query.after, call.query.wait_s)
