"""Whatever the control plane is sent, it answers with a problem and stays of use to everybody else."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from harmonicio.control import json_codec, paths
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import (
    EngineCount,
    EngineExit,
    EngineReport,
    HostLoad,
    LeaseList,
    LeaseRequest,
    RunningMessage,
    StreamTrouble,
    TokenRequest,
    WorkerRegistration,
    WorkerReport,
)
from harmonicio.core.engine import Availability, ExitReason
from harmonicio.core.lease import Address
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import MasterOptions, MasterService

PLATES = StreamDeclaration("plates", handler="/h.py", parameters={"a": 1}, plugins={"theirs": {"x": 1.5}})
WORKER = WorkerRegistration("w1", "127.0.0.1", 5, "memory", "1")
ENGINE = EngineReport(
    "e1", "plates", 1, Availability.BUSY, 0.5, Address("127.0.0.1", 4000), running=(RunningMessage("m", 0.5),)
)
REPORT = WorkerReport(
    1,
    (ENGINE,),
    exits=(EngineExit("e0", "plates", ExitReason.CRASHED, "signal 9", ("m",)),),
    load=HostLoad(0.1, 1, 2, 3),
    troubles=(StreamTrouble("plates", "text", 1.0),),
)
#: What each route with a body is sent, changed in every place.
BODIES = {
    ("POST", paths.WORKERS): WORKER,
    ("POST", paths.WORKER_REPORT): REPORT,
    ("PUT", paths.STREAM): PLATES,
    ("POST", paths.STREAM_SCALE): EngineCount(2),
    ("POST", paths.LEASES): LeaseRequest("plates", "s1", 1, ("l",)),
    ("POST", paths.LEASES_RENEW): LeaseList("s1", ("l",)),
    ("POST", paths.LEASES_RELEASE): LeaseList("s1", ("l",)),
    ("POST", paths.TOKENS): TokenRequest("t", "source"),
}
VALUES = (
    None,
    True,
    -1,
    0,
    1.5,
    1e308,
    -1e308,
    10**400,
    "",
    "../x",
    "\0",
    "x" * 4096,
    "\ud800",
    [],
    [[]],
    {"a": 1},
    2**64,
)
LITERALS = ("1e400", "-1e400", "NaN", "-Infinity", "1" + "0" * 5_000)
RAW = (
    b"",
    b"{",
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b"null",
    b"[]",
    b'"\\ud800"',
    b"[" * 100_000,
    b'{"a":1,"a":2}',
    b"x" * (1024 * 1024 + 1),
)
NAMES = ("../x", "..%2f..%2fetc", "%00", "a%00b", "x" * 4096, "%ff%fe", "%20", ".", "..", "%2e%2e", "a/b", "%0d%0aX:1")
QUERIES = (
    "generation=-1",
    "generation=" + "9" * 500,
    "wait_s=nan",
    "wait_s=-5",
    "wait_s=1e400",
    "force=maybe",
    "%00=%00",
)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MasterService]:
    with MasterService(MasterOptions(tmp_path / "master", port=0, data_port=0, settle_s=0.0)) as running:
        yield running


@pytest.fixture
def admin(service: MasterService) -> Iterator[MasterClient]:
    with MasterClient(service.url, service.token_file(Role.ADMIN).read_text().strip()) as client:
        yield client


class Sender:
    """Sends what no client of ours would send."""

    def __init__(self, service: MasterService) -> None:
        self._netloc = service.url.removeprefix("http://")
        self._token = service.token_file(Role.ADMIN).read_text().strip()
        self.statuses: set[int] = set()

    def send(self, method: str, target: str, body: bytes | None = None) -> None:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        with closing(http.client.HTTPConnection(self._netloc, timeout=30)) as connection:
            try:
                connection.request(method, target, body, headers)
                answer = connection.getresponse()
            except ConnectionError:
                return  # It was too large, and the answer crossed with the rest of it.
            text = answer.read()
        self.statuses.add(answer.status)
        assert answer.status < 500, (method, target[:100], (body or b"")[:200], answer.status, text[:300])
        if answer.status >= 400:
            assert json.loads(text)["code"]


def path_of(template: str) -> str:
    names = {"worker": "w1", "stream": "plates", "engine": "e1", "message": "m", "token": "t"}
    return re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], "x"), template)


def changed(plain: Any) -> Iterator[Any]:
    """Return the JSON value with every place replaced by every strange value, left out, added to and repeated."""
    if isinstance(plain, dict):
        yield {**plain, "unknown": 1}
        for key, inner in plain.items():
            yield {other: value for other, value in plain.items() if other != key}
            yield from ({**plain, key: value} for value in VALUES)
            yield from ({**plain, key: other} for other in changed(inner))
    elif isinstance(plain, list):
        yield plain * 3_000
        for at, inner in enumerate(plain):
            yield from ([*plain[:at], other, *plain[at + 1 :]] for other in changed(inner))


def bodies_of(record: Any) -> Iterator[bytes]:
    text = json_codec.dumps(record).decode()
    yield from (json.dumps(other).encode() for other in changed(json.loads(text)))
    for number in re.finditer(r"(?<=:)\s*-?\d+(\.\d+)?(?=[,}\]])", text):
        yield from ((text[: number.start()] + each + text[number.end() :]).encode() for each in LITERALS)


def show_everything(admin: MasterClient) -> None:
    """Everybody else still sees everything."""
    admin.status()
    for show in (admin.workers, admin.engines, admin.streams, admin.backlog):
        show()


@pytest.mark.row("S16")
@pytest.mark.parametrize(("method", "template"), list(BODIES), ids=lambda value: value.rpartition("/")[2] or value)
def test_no_body_breaks_the_master(service: MasterService, admin: MasterClient, method: str, template: str) -> None:
    sender = Sender(service)
    for body in (*bodies_of(BODIES[method, template]), *RAW):
        # What is changed from here on is what the request would have changed.
        admin.register_worker(WORKER)
        admin.declare_stream(PLATES)
        sender.send(method, path_of(template), body)
    show_everything(admin)
    assert {400, 422} <= sender.statuses


@pytest.mark.row("S7")
def test_no_name_and_no_query_breaks_the_master(service: MasterService, admin: MasterClient) -> None:
    sender = Sender(service)
    for template, operations in admin.openapi()["paths"].items():
        for method in operations:
            for name in NAMES:
                body = b"{}" if method in ("post", "put") else None
                sender.send(method.upper(), re.sub(r"\{\w+\}", name, template), body)
            if method == "get":
                for query in QUERIES:
                    sender.send("GET", f"{path_of(template)}?{query}")
    show_everything(admin)


def test_what_a_worker_reports_can_always_be_shown(service: MasterService, admin: MasterClient) -> None:
    sender = Sender(service)
    for number, literal in enumerate(("1e400", "-1e400", "1e308", "-1e308", "1e-400")):
        admin.register_worker(WORKER)
        text = json_codec.dumps(REPORT).decode()
        for field in ("state_since_s", "running_s", "cpu_fraction", "retry_in_s"):
            body = re.sub(rf'("{field}":)\s*[0-9.]+', rf"\g<1>{literal}", text)
            assert body != text
            sender.send(
                "POST", path_of(paths.WORKER_REPORT), body.replace('"sequence":1', f'"sequence":{number}').encode()
            )
            show_everything(admin)


@pytest.mark.row("S18")
def test_hundreds_of_idle_connections_keep_nobody_from_being_served(
    service: MasterService, admin: MasterClient
) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with ExitStack() as open_connections:
        for number in range(300):
            idle = open_connections.enter_context(socket.create_connection((host, int(port)), timeout=5))
            if number % 3 == 0:
                idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert idle.recv(65_536).startswith(b"HTTP/1.1 200")
        show_everything(admin)
