"""Workers: they register, report, and ask what they shall run. The master never calls them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harmonicio.control import paths
from harmonicio.control.log_messages import LogAnswer
from harmonicio.control.messages import (
    Desired,
    ReportAnswer,
    WorkerRegistration,
    WorkerReport,
    WorkerView,
    WorkerWelcome,
)
from harmonicio.core.roles import Role
from harmonicio.master.endpoint import LOOKING, Call, Routes
from harmonicio.master.master import Master

routes = Routes("workers")
WORKER = frozenset({Role.WORKER})


@dataclass(frozen=True, slots=True)
class DesiredQuery:
    """The generation that the worker has, and how long it will wait for another."""

    generation: int = 0
    wait_s: float = 0.0


@routes.post(paths.WORKERS, WORKER, body=WorkerRegistration, answer=WorkerWelcome)
def register(master: Master, call: Call) -> WorkerWelcome:
    """Introduce a worker; repeated after each restart of either side."""
    welcome = master.register(call.body)
    return replace(welcome, data_address=call.reaches(welcome.data_address))


@routes.get(paths.WORKERS, LOOKING, answer=tuple[WorkerView, ...])
def list_all(master: Master, call: Call) -> tuple[WorkerView, ...]:
    """List all workers."""
    return master.worker_views()


@routes.get(paths.WORKER, LOOKING, answer=WorkerView)
def show(master: Master, call: Call) -> WorkerView:
    """Show one worker."""
    return master.worker_view(call.names["worker"])


@routes.delete(paths.WORKER, WORKER)
def leave(master: Master, call: Call) -> None:
    """Say goodbye: the worker stops on purpose and its engines are gone."""
    master.leave(call.names["worker"])


@routes.post(paths.WORKER_REPORT, WORKER, body=WorkerReport, answer=ReportAnswer)
def report(master: Master, call: Call) -> ReportAnswer:
    """Report everything that the controller knows; at least every `report_interval_s`, at once on change."""
    return master.report(call.names["worker"], call.body)


@routes.get(paths.WORKER_DESIRED, WORKER, answer=Desired, query=DesiredQuery)
def desired(master: Master, call: Call) -> Desired:
    """Ask what the worker shall do; held until that differs from `generation`, or for `wait_s` (at most 30).

    A log that somebody wishes for is an answer, too.
    """
    return master.desired(call.names["worker"], call.query.generation, call.query.wait_s)


@routes.post(paths.WORKER_LOGS, WORKER, body=LogAnswer)
def answer_log(master: Master, call: Call) -> None:
    """Hand over a part of a log that was wished for."""
    master.logs.answer(call.names["worker"], call.body)
