"""Dead letters: messages that were given up, to be looked at, replayed or purged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harmonicio.control import paths
from harmonicio.control.backlog_messages import MAX_PAGE, DeadChange, DeadChoice, DeadLetterPage, DeadLetterView
from harmonicio.core.roles import Role
from harmonicio.master.endpoint import ADMIN_ONLY, Call, Routes
from harmonicio.master.master import Master

routes = Routes("dead")
#: What an error says may hold what its message holds: it is for people who look after them.
READING = frozenset({Role.VIEWER})


@dataclass(frozen=True, slots=True)
class DeadQuery:
    """The cursor of the page before, how many letters at most, and only those of one type of error."""

    after: str = ""
    limit: int = MAX_PAGE
    error_type: str = ""


@routes.get(paths.DEAD_LETTERS, READING, answer=DeadLetterPage, query=DeadQuery)
def list_all(master: Master, call: Call) -> DeadLetterPage:
    """List a stream's dead letters in the order of their arrival, in pages."""
    stream, query = master.streams.declared(call.names["stream"]).name, call.query
    return master.backlog.upkeep.dead_letters(stream, query.after, query.limit, query.error_type)


@routes.get(paths.DEAD_LETTER, READING, answer=DeadLetterView)
def show(master: Master, call: Call) -> DeadLetterView:
    """Show one dead letter, with its traceback."""
    return master.backlog.upkeep.dead_letter(master.streams.declared(call.names["stream"]).name, call.names["message"])


def _chosen(choice: DeadChoice) -> dict[str, Any]:
    return {"messages": len(choice.messages), "error_type": choice.error_type[:100], "all": choice.all}


@routes.post(paths.DEAD_REPLAY, ADMIN_ONLY, body=DeadChoice, answer=DeadChange, note=_chosen)
def replay(master: Master, call: Call) -> DeadChange:
    """Let dead letters wait again, with no attempts and no crashes counted; one step, which says where to go on."""
    return master.backlog.upkeep.replay(master.streams.declared(call.names["stream"]).name, call.body)


@routes.post(paths.DEAD_PURGE, ADMIN_ONLY, body=DeadChoice, answer=DeadChange, note=_chosen)
def purge(master: Master, call: Call) -> DeadChange:
    """Delete dead letters with their payloads; one step, which says where to go on."""
    return master.backlog.upkeep.purge(master.streams.declared(call.names["stream"]).name, call.body)
