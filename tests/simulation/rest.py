"""The control plane between hosts: requests that can be lost, answered in vain, doubled and overtaken.

It stands for :class:`harmonicio.control.client.MasterClient`, HTTP and the routes: a request runs in a thread of the
master's process, on the real :class:`~harmonicio.master.master.Master`; records travel as plain JSON would carry them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harmonicio.control import json_codec
from harmonicio.control.backlog_messages import (
    BacklogView,
    DeadChange,
    DeadChoice,
    DeadLetterPage,
    PriorityChange,
    PriorityRequest,
)
from harmonicio.control.messages import (
    Desired,
    LeaseGrant,
    LeaseList,
    LeaseRenewal,
    LeaseRequest,
    ReportAnswer,
    WorkerRegistration,
    WorkerReport,
    WorkerWelcome,
)
from harmonicio.core.errors import ConnectionEnded, HarmonicIOError, MasterUnavailable, NotFound
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.master import Master
from simulation.loop import Process, Task, check_alive, current, sleep
from simulation.network import Network

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 3.0, 15.0
Call = Callable[[Master], Any]


class WebServer:
    """A master that answers; ends with its process."""

    def __init__(self, master: Master, process: Process) -> None:
        self.master = master
        self.process = process
        self.waiting: dict[_Request, None] = {}
        process.on_death.append(self._died)

    def _died(self) -> None:
        for request in list(self.waiting):
            request.broke()


class Web:
    """Where masters answer, and what happens to requests on their way.

    Attributes:
        loses_request, loses_answer, doubles: How likely each of these is; all 0 in good weather.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.servers: dict[str, WebServer] = {}
        self.loses_request = self.loses_answer = self.doubles = 0.0

    def server_at(self, host: str) -> WebServer | None:
        server = self.servers.get(host)
        return None if server is None or server.process.is_dead else server

    def chance(self, share: float, hit: str) -> bool:
        if share and self.network.loop.random.random() < share:
            self.network.on_hit(hit)
            return True
        return False


class Broken(Exception):
    """The connection of a request broke, before or after it was served."""


class TimedOut(Exception):
    """Nothing came back in time."""


class _Request:
    """One request on its way: what comes back, once."""

    def __init__(self, web: Web, server: WebServer, call: Call) -> None:
        self._web = web
        self._server = server
        self._call = call
        self._caller: tuple[Task, int] | None = None
        self.answer: tuple[Any, HarmonicIOError | None] | None = None
        self.is_broken = False

    def serve(self) -> None:
        """In a thread of the master: do what is asked, and send the answer back."""
        try:
            answer = self._call(self._server.master), None
        except HarmonicIOError as error:
            answer = None, error.with_traceback(None)
        if self._web.chance(self._web.loses_answer, "an answer of the control plane was lost"):
            self.broke()
            return
        loop = self._web.network.loop
        loop.after(self._web.network.draw_delay_s(), self._arrive, answer)

    def serve_again(self) -> None:
        """The same request arrives once more, perhaps behind later ones: its answer goes to nobody."""
        try:
            self._call(self._server.master)
        except HarmonicIOError:
            return

    def _arrive(self, answer: tuple[Any, HarmonicIOError | None]) -> None:
        if self._caller is None:
            return
        host = self._caller[0].process.host
        if self._web.network.is_parted(self._server.process.host, host):
            self._web.network.loop.after(0.5, self._arrive, answer)
            return
        self.answer = answer
        self._wake()

    def broke(self) -> None:
        self.is_broken = True
        self._wake()

    def _wake(self) -> None:
        self._server.waiting.pop(self, None)
        if self._caller is not None:
            (task, number), self._caller = self._caller, None
            task.wake(number)

    def wait(self, timeout_s: float) -> Any:
        task = current()
        number = task.ready_to_park()
        self._caller = (task, number)
        self._server.waiting[self] = None
        if self.answer is None and not self.is_broken:
            task.park(number, timeout_s)
        self._caller = None
        self._server.waiting.pop(self, None)
        if self.answer is not None:
            value, error = self.answer
            if error is not None:
                raise error
            return value
        raise Broken if self.is_broken else TimedOut


class Client:
    """:class:`~harmonicio.control.client.MasterClient`, as far as connectors, workers and engines use it."""

    #: Of the simulation that runs; set by the world.
    web: Web

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url
        self._host = url.split("//")[1].split(":")[0]
        self._requests: dict[_Request, None] = {}
        self._is_closed = False

    def close(self) -> None:
        self._is_closed = True
        for request in list(self._requests):
            request.broke()

    # ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────

    def request_leases(self, request: LeaseRequest) -> LeaseGrant:
        return self._ask(lambda master, given: master.request_leases(given), request, is_repeatable=False)

    def renew_leases(self, held: LeaseList) -> LeaseRenewal:
        return self._ask(lambda master, given: master.renew(given), held)

    def release_leases(self, held: LeaseList) -> None:
        self._ask(lambda master, given: master.release(given), held)

    def register_worker(self, registration: WorkerRegistration) -> WorkerWelcome:
        return self._ask(lambda master, given: master.register(given), registration)

    def report(self, worker: str, report: WorkerReport) -> ReportAnswer:
        return self._ask(lambda master, given: master.report(worker, given), report)

    def desired(self, worker: str, generation: int = 0, wait_s: float = 0.0) -> Desired:
        return self._ask(
            lambda master, _: master.desired(worker, generation, wait_s), read_timeout_s=READ_TIMEOUT_S + wait_s
        )

    def leave_worker(self, worker: str) -> None:
        self._ask(lambda master, _: master.leave(worker), is_repeatable=False)

    def answer_log(self, worker: str, answer: object) -> None:
        raise NotFound("No logs are kept here.")

    def declare_stream(self, declaration: StreamDeclaration) -> StreamDeclaration:
        return self._ask(lambda master, given: master.streams.declare(given), declaration)

    def scale_stream(self, stream: str, engines: int) -> Any:
        return self._ask(lambda master, _: master.streams.scale(stream, engines), is_repeatable=False)

    def stream_backlog(self, stream: str, limit: int) -> BacklogView:
        return self._ask(lambda master, _: master.backlog.upkeep.backlog(stream, limit))

    def prioritise(self, stream: str, messages: Sequence[str], priority: int) -> PriorityChange:
        def prioritise(master: Master, given: PriorityRequest) -> PriorityChange:
            return master.backlog.upkeep.prioritise(stream, given.messages, given.priority)

        return self._ask(prioritise, PriorityRequest(tuple(messages), priority))

    def dead_letters(self, stream: str, limit: int) -> DeadLetterPage:
        return self._ask(lambda master, _: master.backlog.upkeep.dead_letters(stream, "", limit))

    def replay_dead(self, stream: str, choice: DeadChoice) -> DeadChange:
        return self._ask(lambda master, given: master.backlog.upkeep.replay(stream, given), choice, is_repeatable=False)

    def purge_dead(self, stream: str, choice: DeadChoice) -> DeadChange:
        return self._ask(lambda master, given: master.backlog.upkeep.purge(stream, given), choice, is_repeatable=False)

    def revoke_all_leases(self) -> None:
        self._ask(lambda master, _: master.revoke_leases(), is_repeatable=False)

    # ── one request ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask(
        self,
        call: Callable[[Master, Any], Any],
        given: Any = None,
        *,
        is_repeatable: bool = True,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> Any:
        given = _travelled(given)
        for left in (1, 0) if is_repeatable else (0,):
            try:
                return _travelled(self._once(lambda master: call(master, given), read_timeout_s))
            except Broken:
                if self._is_closed:
                    raise ConnectionEnded(f"The client of {self.url} is closed.") from None
                if not left:
                    break
            except TimedOut:
                break
        raise MasterUnavailable(f"The master at {self.url} does not answer.")

    def _once(self, call: Call, read_timeout_s: float) -> Any:
        if self._is_closed:
            raise ConnectionEnded(f"The client of {self.url} is closed.")
        web, network = self.web, self.web.network
        own = check_alive().host
        target = network.hosts[self._host]
        until = network.loop.now + CONNECT_TIMEOUT_S
        sleep(network.draw_delay_s())
        while network.is_parted(own, target) or network.is_parted(target, own):
            if network.loop.now >= until:
                raise TimedOut
            sleep(1.0)
        server = web.server_at(self._host)
        if server is None or web.chance(web.loses_request, "a request of the control plane was lost"):
            raise Broken
        request = _Request(web, server, call)
        self._requests[request] = None
        try:
            server.process.spawn("web", request.serve)
            if web.chance(web.doubles, "a request of the control plane came twice"):
                network.loop.after(network.loop.random.uniform(0.0, 3.0), _spawn, server, request)
            return request.wait(read_timeout_s)
        finally:
            self._requests.pop(request, None)


def _spawn(server: WebServer, request: _Request) -> None:
    if not server.process.is_dead:
        server.process.spawn("web-again", request.serve_again)


def _travelled(record: Any) -> Any:
    """Return what the other side gets of a record."""
    return None if record is None else json_codec.from_plain(type(record), json_codec.as_plain(record))
