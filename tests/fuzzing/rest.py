"""Fuzzes the control plane over every route of its own OpenAPI document: ``make fuzz-rest MINUTES=10``.

A real master with something in every place answers requests that schemathesis makes up: such as the document describes,
and such as it forbids; with an administrator's token, with that of each role, and with none. Half of the names in paths
are of things that are there. New routes are found in the document by themselves.

What must hold: the answer is one that the document names, with that content type and schema; no status from 500 on but
503 with ``Retry-After``; who may not do something is told so, whatever else is wrong; and the master serves on.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from benches.master import BUSY, PLATES, FakeController, ask
from harmonicio.control import tickets
from harmonicio.control.client import MasterClient
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.message import Failure
from harmonicio.core.roles import Role
from harmonicio.master.endpoint import Endpoint
from harmonicio.master.extensions import extension_endpoints
from harmonicio.master.routes import all_endpoints
from harmonicio.master.service import MasterOptions, MasterService
from harmonicio.transport import tcp
from harmonicio.transport.link import Link
from harmonicio.wire.connection import message_prefix
from harmonicio.wire.events import Hello, OutcomesReceived
from harmonicio.wire.events import Role as DataRole
from harmonicio.wire.frames import VERSION, Flag

ANSWER_WITHIN_S = 40.0
#: Requests that may be held are held no longer than this, unless what they ask for makes no sense.
MAX_WAIT_S = 0.02
#: Of each kind, in one round over all routes.
EXAMPLES = 5
DEAD, WAITING = "dead one", "waiting one"
SENDERS = (Role.ADMIN, Role.VIEWER, Role.SOURCE, Role.WORKER, Role.ENGINE, None)


@schemathesis.check
def no_server_error(context: Any, response: Any, case: Any) -> None:
    """Nothing from 500 on but 503, and that says when to come again."""
    if response.status_code == 503:
        # A store that fails has nothing to say of when it will not; what is busy has.
        is_late = response.json().get("code") == "storage" or int(response.headers["retry-after"][0]) >= 1
        assert is_late, response.headers
    assert response.status_code < 500 or response.status_code == 503, response.text


CHECKS = (
    no_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
    ignored_auth,
)
#: What the document cannot say of a role, our own table of routes does.
BY_ROLE = (no_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


@dataclasses.dataclass
class Tally:
    """What a run has sent, and what came back."""

    operations: int = 0
    requests: int = 0
    statuses: Counter[int] = dataclasses.field(default_factory=Counter)
    by_operation: dict[str, Counter[int]] = dataclasses.field(default_factory=dict)

    def count(self, operation: str, status: int) -> None:
        self.requests += 1
        self.statuses[status] += 1
        self.by_operation.setdefault(operation, Counter())[status] += 1

    def report(self) -> str:
        lines = [
            f"{self.requests} requests to {len(self.by_operation)} operations: {dict(sorted(self.statuses.items()))}"
        ]
        lines += [f"  {name:<28} {dict(sorted(found.items()))}" for name, found in sorted(self.by_operation.items())]
        return "\n".join(lines)


class Target:
    """A real master with something in every place."""

    def __init__(self, service: MasterService) -> None:
        self.service = service
        self.admin = MasterClient(service.url, self._token(Role.ADMIN))
        self.tokens = {role: self._token(role) for role in (Role.ADMIN, Role.SOURCE, Role.WORKER)}
        self.tokens[Role.VIEWER] = self.admin.create_token("looker", Role.VIEWER).secret
        self.names: Mapping[str, str] = {}
        of_extensions = extension_endpoints(service._extensions, service._messages.make_room)
        self.endpoints = {each.name: each for each in (*all_endpoints(), *of_extensions)}

    def _token(self, role: Role) -> str:
        return self.service.token_file(role).read_text().strip()

    def prepare(self) -> None:
        """Put back what requests may have taken away."""
        self.admin.declare_stream(PLATES)
        controller = FakeController(self.admin, "w1")
        controller.report(e1=BUSY)
        claims = Claims(TicketKind.ENGINE, "plates", 3600.0, time.time(), 0, engine="e1")
        ticket = tickets.sign(tickets.derive_key(controller.key, "engine", "e1"), claims)
        self.tokens[Role.ENGINE] = tickets.engine_bearer("w1", "e1", ticket)
        grant = ask(self.admin, "scope")
        if not self._has_letters():
            self._put(grant.backlog.ticket)
        if not any(each.name == "victim" for each in self.admin.tokens()):
            self.admin.create_token("victim", Role.VIEWER)
        self.names = {"stream": "plates", "worker": "w1", "engine": "e1", "message": DEAD, "token": "victim"}

    def _has_letters(self) -> bool:
        return any(each.dead for each in self.admin.backlog() if each.stream == "plates")

    def _put(self, ticket: str) -> None:
        with closing(Link(tcp.dial(self.service.data_address, timeout_s=5), DataRole.CONNECTOR)) as link:
            link.greet(Hello(DataRole.CONNECTOR, stream="plates", ticket=ticket, source="scope", versions=(VERSION,)))
            failure = Failure("ValueError", "a bad pixel", "Traceback")
            link.send(
                message_prefix(WAITING, 3), b"abc", message_prefix(DEAD, 3, flags=Flag.DEAD, failure=failure), b"abc"
            )
            deadline, answered = time.monotonic() + 10, 0
            while answered < 2:
                assert time.monotonic() < deadline
                link.read()
                for event in iter(link.next_event, None):
                    if isinstance(event, OutcomesReceived):
                        answered += sum(each.last - each.first + 1 for each in event.ranges)

    def serves(self) -> None:
        """Everybody else still sees everything."""
        self.admin.ready()
        for show in (self.admin.status, self.admin.workers, self.admin.engines, self.admin.streams, self.admin.backlog):
            show()

    def close(self) -> None:
        self.admin.close()


def documented(target: Target) -> list[Any]:
    """Return every operation of the master's own document."""
    schema = schemathesis.openapi.from_dict(dict(target.admin.openapi()))
    schema.config.update(base_url=target.service.url)
    return [found.ok() for found in schema.get_all_operations()]


def run(
    target: Target, *, examples: int, seed_number: int | None, is_done: Callable[[], bool] = lambda: False
) -> Tally:
    """Send so many requests of each kind to each operation.

    Args:
        seed_number: None repeats the same requests each time.

    Raises:
        AssertionError: with the request that broke a rule.
    """
    tally = Tally()
    for operation in documented(target):
        if is_done():
            break
        target.prepare()
        for role in SENDERS:
            for mode in _modes(operation):
                if role is Role.ADMIN:
                    _send(target, operation, role, mode, examples, seed_number, tally)
                elif mode is GenerationMode.POSITIVE or examples >= 10:
                    _send(target, operation, role, mode, max(1, examples // 5), seed_number, tally)
                if operation.method.upper() != "GET":
                    target.prepare()
        tally.operations += 1
        target.serves()
    return tally


def _modes(operation: Any) -> tuple[GenerationMode, ...]:
    """What takes nothing cannot be asked wrongly."""
    raw = operation.definition.raw
    takes_something = raw.get("parameters") or raw.get("requestBody")
    return (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if takes_something else (GenerationMode.POSITIVE,)


def _send(
    target: Target,
    operation: Any,
    role: Role | None,
    mode: GenerationMode,
    examples: int,
    seed_number: int | None,
    tally: Tally,
) -> None:
    name = operation.definition.raw["operationId"]
    headers = {"Authorization": f"Bearer {target.tokens[role]}"} if role is not None else {}

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=seed_number is None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),
    )
    @given(case=operation.as_strategy(generation_mode=mode), is_named=st.sampled_from([True, False]))
    def answers_as_documented(case: Any, is_named: bool) -> None:
        # A forbidden token is no fault of a request that is sent with another one.
        is_about_token = "Authorization" in (case.headers or {})
        _make_sensible(case, target.names if is_named else {})
        checks = CHECKS if role is Role.ADMIN and not is_named and not is_about_token else BY_ROLE
        response = case.call(headers=headers, timeout=ANSWER_WITHIN_S)
        tally.count(name, response.status_code)
        case.validate_response(response, checks=list(checks), headers=headers)
        _check_role(target.endpoints.get(name), role, response)

    (answers_as_documented if seed_number is None else seed(seed_number)(answers_as_documented))()


def _make_sensible(case: Any, names: Mapping[str, str]) -> None:
    """Name what is there, do not ask to be held for long, and be who the run says."""
    if case.headers:
        case.headers.pop("Authorization", None)
    for key in case.path_parameters or {}:
        if key in names:
            case.path_parameters[key] = names[key]
    query = case.query or {}
    if isinstance(query.get("wait_s"), (int, float)):
        query["wait_s"] = min(query["wait_s"], MAX_WAIT_S)


def _check_role(endpoint: Endpoint | None, role: Role | None, response: Any) -> None:
    if endpoint is None or endpoint.roles is None or role is Role.ADMIN:
        return
    if "Authorization" not in response.request.headers:
        role = None  # What schemathesis forbids may be the token.
    status = response.status_code
    told = f"{endpoint.name} answers {status} to {'nobody' if role is None else role.value}: {response.text:.500}"
    if role is None:
        assert status == 401, told
    elif role not in endpoint.roles:
        # A path that fits no route is not found by anybody, and belongs to no role.
        assert status in (400, 403, 404, 405), told


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    end = time.monotonic() + options.minutes * 60
    number, total = options.seed, Tally()
    with (
        tempfile.TemporaryDirectory() as folder,
        MasterService(MasterOptions(Path(folder) / "master", port=0, data_port=0, settle_s=0.0)) as service,
        closing(Target(service)) as target,
    ):
        while time.monotonic() < end:
            # Few of each at a time, so that every route has its turn soon.
            tally = run(target, examples=EXAMPLES, seed_number=number, is_done=lambda: time.monotonic() > end)
            total.requests += tally.requests
            total.statuses += tally.statuses
            for name, found in tally.by_operation.items():
                total.by_operation.setdefault(name, Counter()).update(found)
            print(f"seed {number}: {tally.requests} requests, no violation", flush=True)  # noqa: T201
            number += 1
    print(total.report())  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
