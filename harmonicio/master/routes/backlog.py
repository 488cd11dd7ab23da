"""What waits in the backlog, and what became of it."""

from __future__ import annotations

from harmonicio.control import paths
from harmonicio.control.messages import BacklogFigures, OutcomeView
from harmonicio.core.roles import Role
from harmonicio.master.endpoint import LOOKING, Call, Routes
from harmonicio.master.master import Master

routes = Routes("backlog")


@routes.get(paths.BACKLOG, LOOKING, answer=tuple[BacklogFigures, ...])
def figures(master: Master, call: Call) -> tuple[BacklogFigures, ...]:
    """Show each stream's backlog."""
    return master.backlog_figures()


@routes.get(paths.OUTCOME, {Role.SOURCE, Role.VIEWER}, answer=OutcomeView)
def outcome(master: Master, call: Call) -> OutcomeView:
    """Show what became of a message that took the backlog."""
    return master.outcome(call.names["stream"], call.names["message"])
