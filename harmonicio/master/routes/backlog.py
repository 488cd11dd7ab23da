"""What waits in the backlog, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from harmonicio.control import paths
from harmonicio.control.backlog_messages import BacklogView, PriorityChange, PriorityRequest
from harmonicio.control.messages import BacklogFigures, OutcomeView
from harmonicio.core.roles import Role
from harmonicio.master.endpoint import ADMIN_ONLY, LOOKING, Call, Routes
from harmonicio.master.master import Master

routes = Routes("backlog")
#: Ids of messages are for those who send them, and for people who look after them.
READING = frozenset({Role.SOURCE, Role.VIEWER})


@dataclass(frozen=True, slots=True)
class BacklogQuery:
    """How many messages to show of each kind."""

    limit: int = 10


@routes.get(paths.BACKLOG, LOOKING, answer=tuple[BacklogFigures, ...])
def figures(master: Master, call: Call) -> tuple[BacklogFigures, ...]:
    """Show each stream's backlog."""
    return master.backlog_figures()


@routes.get(paths.STREAM_BACKLOG, READING, answer=BacklogView, query=BacklogQuery)
def show(master: Master, call: Call) -> BacklogView:
    """Show a stream's backlog, with the messages that go next and those that have waited for longest."""
    return master.backlog.upkeep.backlog(master.streams.declared(call.names["stream"]).name, call.query.limit)


def _asked_for(request: PriorityRequest) -> dict[str, int]:
    return {"messages": len(request.messages), "priority": request.priority}


@routes.post(paths.STREAM_BACKLOG_PRIORITY, ADMIN_ONLY, body=PriorityRequest, answer=PriorityChange, note=_asked_for)
def prioritise(master: Master, call: Call) -> PriorityChange:
    """Give messages that wait another priority; what an engine has, or what is dead, keeps its own."""
    stream = master.streams.declared(call.names["stream"]).name
    return master.backlog.upkeep.prioritise(stream, call.body.messages, call.body.priority)


@routes.get(paths.OUTCOME, READING, answer=OutcomeView)
def outcome(master: Master, call: Call) -> OutcomeView:
    """Show what became of a message that took the backlog."""
    return master.outcome(call.names["stream"], call.names["message"])
