"""What handlers do: a twin of tiers and feature rows, and the deeds that the plan has for each message.

    handler called ──► works ──► writes its copy ──► commits the row, or finds another's and removes the copy ──► done
                         │                         ▲                                                          ▲
                         └─ raises, dies, hangs    └── an engine may die here, and here ──────────────────────┘

The commit is atomic: the first row of a message wins. Copies without a row are what a reconciler removes: they are no
effects. The master looks for the row of a message whose engines died before it gives it up.
"""

from __future__ import annotations

import hashlib
from typing import Any

from benches.auditor import Auditor
from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.engine.plugin import NotKept
from simulation.loop import Process, check_alive, sleep
from simulation.schedule import Deed, Planned


def digest_of(payload: Any) -> str:
    return hashlib.blake2b(payload, digest_size=8).hexdigest()


class HandlerRaised(Exception):
    """What a planned handler raises: it may help to try again."""


class HandlerRefused(Exception):
    """Likewise, and it will not."""

    retryable = False


class Effects:
    """Tiers, rows and executions of all messages."""

    def __init__(self, auditor: Auditor, planned: dict[str, Planned]) -> None:
        self._auditor = auditor
        self._planned = planned
        #: Message to the digest of the copy that its row names.
        self.rows: dict[str, str] = {}
        self._copies: dict[tuple[str, int], str] = {}
        self._executions: dict[str, int] = {}
        self._next_copy = 0
        #: Messages that were given up when there was no row: one that comes later is of an engine that nobody hears.
        self.sought_in_vain: set[str] = set()
        self.latecomers = 0

    def handle(self, message: Any) -> Any:
        """Be the user's handler."""
        process = check_alive()
        name = message.id
        plan = self._planned[name]
        self._auditor.executed(name, digest_of(message.payload))
        execution = self._executions[name] = self._executions.get(name, 0) + 1
        sleep(plan.service_s)
        self._misbehave(plan, execution, process)
        self._commit(name, message.payload, plan)
        return {"execution": execution} if plan.has_result else None

    @staticmethod
    def _misbehave(plan: Planned, execution: int, process: Process) -> None:
        if execution > plan.times:
            return
        if plan.deed is Deed.RAISES:
            raise HandlerRaised(f"not yet, in execution {execution}")
        if plan.deed is Deed.REFUSES:
            raise HandlerRefused("never")
        if plan.deed is Deed.DIES:
            process.die(-11)
        if plan.deed is Deed.HANGS:
            sleep(1e6)
        if plan.deed is Deed.IS_NOT_KEPT:
            raise NotKept("the tier is away")

    def _commit(self, name: str, payload: Any, plan: Planned) -> None:
        self._next_copy += 1
        copy = (name, self._next_copy)
        self._copies[copy] = digest_of(payload)
        sleep(plan.commit_s)
        if name in self.rows:
            del self._copies[copy]
            self.latecomers += 1
        else:
            self.rows[name] = self._copies[copy]
        sleep(plan.commit_s)

    def recorded(self, name: str) -> Outcome | None:
        """Be the master's look at the rows."""
        if name in self.rows:
            return Outcome(OutcomeKind.DONE)
        self.sought_in_vain.add(name)
        return None

    def audit(self) -> None:
        """Tell the auditor what lies in the tiers, once the reconciler has removed what has no row."""
        for name, digest in self.rows.items():
            self._auditor.effect(name, digest)
