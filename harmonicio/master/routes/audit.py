"""The audit log: for administrators only."""

from __future__ import annotations

from dataclasses import dataclass

from harmonicio.control import paths
from harmonicio.control.audit_messages import MAX_RECORDS, AuditView
from harmonicio.core.errors import InvalidInput
from harmonicio.master.endpoint import ADMIN_ONLY, Call, Routes
from harmonicio.master.master import Master

routes = Routes("audit")


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """``last``: how many records."""

    last: int = 100


@routes.get(paths.AUDIT, ADMIN_ONLY, query=AuditQuery, answer=AuditView)
def show(master: Master, call: Call) -> AuditView:
    """Show who changed what, and whether the records are as they were written."""
    if not 0 < call.query.last <= MAX_RECORDS:
        raise InvalidInput(f"last is {call.query.last}.", hint=f"Use 1 to {MAX_RECORDS}.")
    return master.audit.view(call.query.last)
