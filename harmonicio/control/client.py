"""The client of the control plane: one method per route, records in and out, our own errors only.

:mod:`harmonicio.control.caller` says how requests are sent, and which are repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harmonicio.control import paths
from harmonicio.control.audit_messages import AuditView
from harmonicio.control.backlog_messages import (
    MAX_PAGE,
    BacklogView,
    DeadChange,
    DeadChoice,
    DeadLetterPage,
    DeadLetterView,
    PriorityChange,
    PriorityRequest,
)
from harmonicio.control.caller import READ_TIMEOUT_S, MasterCaller
from harmonicio.control.log_messages import LogAnswer, LogPart
from harmonicio.control.messages import (
    BacklogFigures,
    Desired,
    EngineCount,
    EngineView,
    Health,
    LeaseGrant,
    LeaseList,
    LeaseRenewal,
    LeaseRequest,
    OutcomeView,
    ReportAnswer,
    Status,
    StreamView,
    TokenRequest,
    TokenView,
    WorkerRegistration,
    WorkerReport,
    WorkerView,
    WorkerWelcome,
)
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration

#: A change of the backlog is answered when it is on stable storage, which a slow disk takes a while for.
CHANGE_TIMEOUT_S = 45.0


class MasterClient(MasterCaller):
    """Talks to one master. May be used from several threads."""

    # ── health and status ────────────────────────────────────────────────────────────────────────────────────────────

    def health(self) -> Health:
        return self._ask(Health, "GET", paths.HEALTH)

    def ready(self) -> Health:
        """Raises ``Unavailable`` while the master starts or ends."""
        return self._ask(Health, "GET", paths.READY)

    def status(self) -> Status:
        return self._ask(Status, "GET", paths.STATUS)

    def openapi(self) -> Mapping[str, Any]:
        """Return the OpenAPI document of the control plane."""
        document: Mapping[str, Any] = self._ask_plain("GET", paths.OPENAPI)
        return document

    # ── workers and engines ──────────────────────────────────────────────────────────────────────────────────────────

    def register_worker(self, registration: WorkerRegistration) -> WorkerWelcome:
        return self._ask(WorkerWelcome, "POST", paths.WORKERS, registration, is_repeatable=True)

    def report(self, worker: str, report: WorkerReport) -> ReportAnswer:
        return self._ask(
            ReportAnswer, "POST", paths.fill(paths.WORKER_REPORT, worker=worker), report, is_repeatable=True
        )

    def desired(self, worker: str, generation: int = 0, wait_s: float = 0.0) -> Desired:
        """Return what a worker shall run; held by the master for up to ``wait_s`` until that differs."""
        path = paths.fill(paths.WORKER_DESIRED, worker=worker)
        query = {"generation": generation, "wait_s": wait_s}
        return self._ask(Desired, "GET", path, query=query, read_timeout_s=READ_TIMEOUT_S + wait_s)

    def leave_worker(self, worker: str) -> None:
        self._tell("DELETE", paths.fill(paths.WORKER, worker=worker))

    def workers(self) -> tuple[WorkerView, ...]:
        return self._ask(tuple[WorkerView, ...], "GET", paths.WORKERS)

    def worker(self, worker: str) -> WorkerView:
        return self._ask(WorkerView, "GET", paths.fill(paths.WORKER, worker=worker))

    def engines(self) -> tuple[EngineView, ...]:
        return self._ask(tuple[EngineView, ...], "GET", paths.ENGINES)

    def engine(self, engine: str) -> EngineView:
        return self._ask(EngineView, "GET", paths.fill(paths.ENGINE, engine=engine))

    def engine_log(self, engine: str, after: str = "", wait_s: float = 0.0) -> LogPart:
        """Return what an engine has logged after a mark; held for up to ``wait_s`` until there is something."""
        path = paths.fill(paths.ENGINE_LOG, engine=engine)
        query = {"after": after, "wait_s": wait_s}
        return self._ask(LogPart, "GET", path, query=query, read_timeout_s=READ_TIMEOUT_S + wait_s)

    def answer_log(self, worker: str, answer: LogAnswer) -> None:
        self._tell("POST", paths.fill(paths.WORKER_LOGS, worker=worker), answer, is_repeatable=True)

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def streams(self) -> tuple[StreamView, ...]:
        return self._ask(tuple[StreamView, ...], "GET", paths.STREAMS)

    def stream(self, stream: str) -> StreamView:
        return self._ask(StreamView, "GET", paths.fill(paths.STREAM, stream=stream))

    def declare_stream(self, declaration: StreamDeclaration) -> StreamDeclaration:
        """Declare a stream; return it with its version."""
        path = paths.fill(paths.STREAM, stream=declaration.name)
        return self._ask(StreamDeclaration, "PUT", path, declaration)

    def scale_stream(self, stream: str, engines: int) -> StreamView:
        return self._ask(StreamView, "POST", paths.fill(paths.STREAM_SCALE, stream=stream), EngineCount(engines))

    def restart_stream(self, stream: str) -> StreamView:
        """Replace a stream's engines one after another: they load their handler anew."""
        return self._ask(StreamView, "POST", paths.fill(paths.STREAM_RESTART, stream=stream))

    def delete_stream(self, stream: str, *, is_forced: bool = False) -> None:
        """Delete a stream; ``is_forced`` deletes messages that wait, too."""
        query = {"force": "true"} if is_forced else None
        self._tell("DELETE", paths.fill(paths.STREAM, stream=stream), query=query)

    # ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def request_leases(self, request: LeaseRequest) -> LeaseGrant:
        return self._ask(LeaseGrant, "POST", paths.LEASES, request)

    def renew_leases(self, held: LeaseList) -> LeaseRenewal:
        return self._ask(LeaseRenewal, "POST", paths.LEASES_RENEW, held, is_repeatable=True)

    def release_leases(self, held: LeaseList) -> None:
        self._tell("POST", paths.LEASES_RELEASE, held, is_repeatable=True)

    def revoke_all_leases(self) -> None:
        """End every lease of every source and refuse all tickets made so far."""
        self._tell("DELETE", paths.LEASES)

    # ── backlog ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def backlog(self) -> tuple[BacklogFigures, ...]:
        return self._ask(tuple[BacklogFigures, ...], "GET", paths.BACKLOG)

    def stream_backlog(self, stream: str, limit: int = 10) -> BacklogView:
        """Return a stream's figures with the messages that go next and those that have waited for longest."""
        path = paths.fill(paths.STREAM_BACKLOG, stream=stream)
        return self._ask(BacklogView, "GET", path, query={"limit": limit})

    def prioritise(self, stream: str, messages: Sequence[str], priority: int) -> PriorityChange:
        """Give messages that wait another priority; the answer names those that could not be given it, and why."""
        path = paths.fill(paths.STREAM_BACKLOG_PRIORITY, stream=stream)
        request = PriorityRequest(tuple(messages), priority)
        return self._ask(PriorityChange, "POST", path, request, read_timeout_s=CHANGE_TIMEOUT_S)

    def dead_letters(
        self, stream: str, *, after: str = "", limit: int = MAX_PAGE, error_type: str = ""
    ) -> DeadLetterPage:
        """Return a page of a stream's dead letters, from a cursor on."""
        query = {"after": after, "limit": limit, "error_type": error_type}
        return self._ask(DeadLetterPage, "GET", paths.fill(paths.DEAD_LETTERS, stream=stream), query=query)

    def dead_letter(self, stream: str, message: str) -> DeadLetterView:
        return self._ask(DeadLetterView, "GET", paths.fill(paths.DEAD_LETTER, stream=stream, message=message))

    def replay_dead(self, stream: str, choice: DeadChoice) -> DeadChange:
        """Let dead letters wait again, one step of them; the answer says where the next one goes on."""
        path = paths.fill(paths.DEAD_REPLAY, stream=stream)
        return self._ask(DeadChange, "POST", path, choice, read_timeout_s=CHANGE_TIMEOUT_S)

    def purge_dead(self, stream: str, choice: DeadChoice) -> DeadChange:
        """Delete dead letters, one step of them; the answer says where the next one goes on."""
        path = paths.fill(paths.DEAD_PURGE, stream=stream)
        return self._ask(DeadChange, "POST", path, choice, read_timeout_s=CHANGE_TIMEOUT_S)

    def outcome(self, stream: str, message: str) -> OutcomeView:
        """Return what became of a message that took the backlog; ``NotFound`` when nothing is known."""
        return self._ask(OutcomeView, "GET", paths.fill(paths.OUTCOME, stream=stream, message=message))

    # ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def tokens(self) -> tuple[TokenView, ...]:
        return self._ask(tuple[TokenView, ...], "GET", paths.TOKENS)

    def create_token(self, name: str, role: Role) -> TokenView:
        """Make a token; ``secret`` of the answer is shown this once."""
        return self._ask(TokenView, "POST", paths.TOKENS, TokenRequest(name, role))

    def revoke_token(self, name: str) -> None:
        self._tell("DELETE", paths.fill(paths.TOKEN, token=name))

    def audit(self, last: int) -> AuditView:
        """Return the last so many records of the audit log, and whether all are as they were written."""
        return self._ask(AuditView, "GET", paths.AUDIT, query={"last": last}, read_timeout_s=CHANGE_TIMEOUT_S)

    # ── feature rows ─────────────────────────────────────────────────────────────────────────────────────────────────

    def post_feature_rows(self, stream: str, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Commit feature rows of a stream; the first row of a message wins. The answer is the extension's."""
        return self._ask_plain(
            "POST", paths.fill(paths.STREAM_FEATURE_ROWS, stream=stream), list(rows), is_repeatable=True
        )

    def feature_rows(self, stream: str, **filters: str | int | float) -> Any:
        """Return feature rows of a stream, as the extension answers them."""
        return self._ask_plain("GET", paths.fill(paths.STREAM_FEATURE_ROWS, stream=stream), query=filters)
