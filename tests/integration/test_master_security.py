"""What the control plane refuses: strangers, wrong roles, and input that cannot be used."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from openapi_spec_validator import validate

from harmonicio.control import paths, tickets
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import WorkerRegistration
from harmonicio.core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master import http_server
from harmonicio.master.service import MasterOptions, MasterService

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
PUBLIC = {paths.HEALTH, paths.READY}
PLATES = StreamDeclaration("plates", handler="/handlers/plates.py")
TIMEOUT_S = 10.0


def run_master(folder: Path) -> MasterService:
    return MasterService(MasterOptions(folder, port=0, data_port=0))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MasterService]:
    with run_master(tmp_path_factory.mktemp("data") / "master") as running:
        yield running


@pytest.fixture(scope="module")
def secrets(service: MasterService) -> dict[str, str]:
    roles = (Role.ADMIN, Role.SOURCE, Role.WORKER, Role.VIEWER)
    return {role: service.token_file(role).read_text().strip() for role in roles}


@pytest.fixture
def admin(service: MasterService, secrets: dict[str, str]) -> Iterator[MasterClient]:
    with MasterClient(service.url, secrets[Role.ADMIN]) as client:
        yield client


def ask(service: MasterService, method: str, path: str, token: str | None, **options: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    with requests.Session() as session:
        session.trust_env = False
        return session.request(
            method,
            service.url + path,
            headers=headers | options.pop("headers", {}),
            timeout=TIMEOUT_S,
            allow_redirects=False,
            **options,
        )


def concrete(path: str) -> str:
    return re.sub(r"\{\w+\}", "x", path)


# ── who asks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_api_document_is_valid_and_names_the_security_scheme(admin: MasterClient) -> None:
    document = admin.openapi()
    validate(document)
    assert document["openapi"].startswith("3.1")
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation.get("security") == (None if path in PUBLIC else [{"bearer": []}])
            assert operation["summary"]


def test_every_path_of_the_contract_is_served_or_belongs_to_an_extension(admin: MasterClient) -> None:
    known = {
        value for name, value in vars(paths).items() if isinstance(value, str) and name.isupper() and name != "BASE"
    }
    assert known - set(admin.openapi()["paths"]) <= {paths.STREAM_FEATURE_ROWS}


@pytest.mark.row("S1")
@pytest.mark.parametrize(
    "token", [None, "", "wrong", "hio_admin_" + "A" * 43, "engine:w1:e1:forged", "engine:a/b:c:d", "x" * 5000, "ü"]
)
def test_without_a_good_token_every_route_answers_401_on_every_method(
    service: MasterService, admin: MasterClient, token: str | None
) -> None:
    for path in [*admin.openapi()["paths"], "/", "/nowhere", "/api/v1/nowhere", "/static/x", "//", "/api/v1//streams"]:
        for method in METHODS if path not in PUBLIC else ():
            encoded = None if token is None else token.encode().decode("latin-1")
            response = ask(service, method, concrete(path), encoded)
            assert response.status_code == 401, (method, path)
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.row("S5")
def test_a_token_is_accepted_as_a_bearer_only(service: MasterService, secrets: dict[str, str]) -> None:
    secret = secrets[Role.ADMIN]
    for header in (secret, f"Basic {secret}", f"Token {secret}", f"Bearer{secret}"):
        assert ask(service, "GET", paths.STATUS, None, headers={"Authorization": header}).status_code == 401
    assert ask(service, "GET", f"{paths.STATUS}?token={secret}", None).status_code == 401
    assert ask(service, "GET", paths.STATUS, None, headers={"Authorization": f"bearer {secret}"}).status_code == 200


MAY_LOOK = {Role.SOURCE, Role.WORKER, Role.VIEWER}
ALLOWED: dict[tuple[str, str], set[Role]] = {
    ("GET", paths.STATUS): MAY_LOOK,
    ("GET", paths.OPENAPI): MAY_LOOK,
    ("GET", paths.WORKERS): MAY_LOOK,
    ("GET", paths.WORKER): MAY_LOOK,
    ("POST", paths.WORKERS): {Role.WORKER},
    ("DELETE", paths.WORKER): {Role.WORKER},
    ("POST", paths.WORKER_REPORT): {Role.WORKER},
    ("GET", paths.WORKER_DESIRED): {Role.WORKER},
    ("POST", paths.WORKER_LOGS): {Role.WORKER},
    ("GET", paths.ENGINES): MAY_LOOK,
    ("GET", paths.ENGINE): MAY_LOOK,
    ("GET", paths.ENGINE_LOG): {Role.VIEWER},
    ("GET", paths.STREAMS): MAY_LOOK,
    ("GET", paths.STREAM): MAY_LOOK,
    ("PUT", paths.STREAM): set(),
    ("DELETE", paths.STREAM): set(),
    ("POST", paths.STREAM_SCALE): set(),
    ("POST", paths.STREAM_RESTART): set(),
    ("POST", paths.LEASES): {Role.SOURCE},
    ("POST", paths.LEASES_RENEW): {Role.SOURCE},
    ("POST", paths.LEASES_RELEASE): {Role.SOURCE},
    ("DELETE", paths.LEASES): set(),
    ("GET", paths.BACKLOG): MAY_LOOK,
    ("GET", paths.STREAM_BACKLOG): {Role.SOURCE, Role.VIEWER},
    ("POST", paths.STREAM_BACKLOG_PRIORITY): set(),
    ("GET", paths.DEAD_LETTERS): {Role.VIEWER},
    ("GET", paths.DEAD_LETTER): {Role.VIEWER},
    ("POST", paths.DEAD_REPLAY): set(),
    ("POST", paths.DEAD_PURGE): set(),
    ("GET", paths.OUTCOME): {Role.SOURCE, Role.VIEWER},
    ("GET", paths.TOKENS): set(),
    ("POST", paths.TOKENS): set(),
    ("DELETE", paths.TOKEN): set(),
    ("GET", paths.AUDIT): set(),
}


@pytest.mark.row("S2")
def test_each_role_may_do_what_is_its_own_and_nothing_else(
    service: MasterService, admin: MasterClient, secrets: dict[str, str]
) -> None:
    served = {
        (method.upper(), path)
        for path, methods in admin.openapi()["paths"].items()
        for method in methods
        if path not in PUBLIC and path != paths.STREAM_FEATURE_ROWS
    }
    assert served == set(ALLOWED)
    for (method, path), roles in ALLOWED.items():
        for role in (Role.SOURCE, Role.WORKER, Role.VIEWER):
            response = ask(service, method, concrete(path), secrets[role])
            assert (response.status_code == 403) == (role not in roles), (method, path, role)


def engine_ticket(admin: MasterClient, engine: str = "e1", kind: TicketKind = TicketKind.ENGINE, **changes: Any) -> str:
    worker_key = admin.register_worker(WorkerRegistration("w1", "127.0.0.1", 1, "memory", "1")).ticket_key
    claims = Claims(kind, "plates", tickets.ENGINE_TICKET_TERM_S, changes.get("issued_at", time.time()), 0, engine="e1")
    return tickets.sign(tickets.derive_key(worker_key, "engine", engine), claims)


@pytest.mark.row("S2")
def test_an_engine_proves_itself_by_its_ticket_and_may_little(service: MasterService, admin: MasterClient) -> None:
    admin.declare_stream(PLATES)
    bearer = tickets.engine_bearer("w1", "e1", engine_ticket(admin))
    lease = {"stream": "plates", "source": "e1", "count": 1}
    assert ask(service, "POST", paths.LEASES, bearer, json=lease).status_code == 200
    for method, path in ALLOWED:
        if path not in (paths.LEASES, paths.LEASES_RENEW, paths.LEASES_RELEASE, paths.OPENAPI):
            assert ask(service, method, concrete(path), bearer).status_code == 403, (method, path)


@pytest.mark.row("S2")
def test_an_engines_ticket_is_good_for_that_engine_only(service: MasterService, admin: MasterClient) -> None:
    ticket = engine_ticket(admin)
    refused = [
        tickets.engine_bearer("w1", "e2", ticket),
        tickets.engine_bearer("w2", "e1", ticket),
        tickets.engine_bearer("w1", "e2", engine_ticket(admin, engine="e2")),
        tickets.engine_bearer("w1", "e1", engine_ticket(admin, kind=TicketKind.LEASE)),
        tickets.engine_bearer("w1", "e1", engine_ticket(admin, issued_at=time.time() - 2 * 365 * 24 * 3600.0)),
        tickets.engine_bearer("w1", "../e1", ticket),
    ]
    assert [ask(service, "GET", paths.OPENAPI, bearer).status_code for bearer in refused] == [401] * len(refused)


def test_an_engines_ticket_stays_good_when_the_masters_clock_is_set_back(
    service: MasterService, admin: MasterClient
) -> None:
    from_the_future = tickets.engine_bearer("w1", "e1", engine_ticket(admin, issued_at=time.time() + 3600.0))
    assert ask(service, "GET", paths.OPENAPI, from_the_future).status_code == 200


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("S2")
def test_a_token_works_from_its_creation_to_its_revocation(service: MasterService, admin: MasterClient) -> None:
    made = admin.create_token("microscope", Role.SOURCE)
    assert re.fullmatch(r"hio_source_[A-Za-z0-9_-]{43}", made.secret)
    with MasterClient(service.url, made.secret) as source:
        assert source.status().version
        assert "microscope" in {view.name for view in admin.tokens()}
        assert {view.secret for view in admin.tokens()} == {""}
        with pytest.raises(Conflict):
            admin.create_token("microscope", Role.SOURCE)
        admin.revoke_token("microscope")
        with pytest.raises(NotAllowed):
            source.status()
    with pytest.raises(NotFound):
        admin.revoke_token("microscope")


def test_the_last_administrator_cannot_be_locked_out(admin: MasterClient) -> None:
    with pytest.raises(Conflict, match="last"):
        admin.revoke_token("admin")


@pytest.mark.parametrize(("name", "role"), [("x y", "source"), ("t1", "root"), ("t1", "engine"), ("", "source")])
def test_a_token_that_makes_no_sense_is_refused(admin: MasterClient, name: str, role: str) -> None:
    with pytest.raises(InvalidInput):
        admin.create_token(name, role)  # type: ignore[arg-type]


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────────


def problem_of(response: requests.Response) -> dict[str, Any]:
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == response.status_code
    return problem


def test_what_is_not_there_is_a_problem_with_a_stable_code(service: MasterService, secrets: dict[str, str]) -> None:
    token = secrets[Role.ADMIN]
    assert problem_of(ask(service, "GET", "/api/v1/nowhere", token))["code"] == "not_found"
    assert problem_of(ask(service, "GET", "/api/v1/streams/nothing", token))["code"] == "not_found"
    refused = ask(service, "PATCH", paths.STREAMS, token)
    assert problem_of(refused)["code"] == "method_not_allowed" and "GET" in refused.headers["Allow"]
    assert ask(service, "GET", "/api/v1//streams", token).status_code == 404


GOOD = {"worker": "w1", "host": "h", "max_engines": 1, "runtime": "memory", "version": "1"}


@pytest.mark.row("S16")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b'{"max_engines": NaN}', 400),
        (b'{"max_engines": ' + b"9" * 10_000 + b"}", 400),
        (b"null", 422),
        (b'"{}"', 422),
        (b"[]", 422),
        (b"{}", 422),
        (json.dumps(GOOD | {"max_engines": "1"}).encode(), 422),
        (json.dumps(GOOD | {"max_engines": 1.5}).encode(), 422),
        (json.dumps(GOOD | {"max_engines": True}).encode(), 422),
        (json.dumps(GOOD | {"max_engines": 10**30}).encode(), 422),
        (json.dumps(GOOD | {"worker": "../w"}).encode(), 422),
        (json.dumps(GOOD | {"worker": None}).encode(), 422),
        (b" " * (1024 * 1024 + 1), 413),
        (b" " * (3 * 1024 * 1024), 413),
        (json.dumps(GOOD | {"unknown": {"of": "a neighbouring version"}}).encode(), 200),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, bytes) else None,
)
def test_a_body_that_cannot_be_used_is_refused_and_not_echoed(
    service: MasterService, secrets: dict[str, str], body: bytes, status: int
) -> None:
    headers = {"Content-Type": "application/json"}
    response = ask(service, "POST", paths.WORKERS, secrets[Role.WORKER], data=body, headers=headers)
    assert response.status_code == status
    assert len(response.content) < 1_000
    if status != 200:
        problem_of(response)


def test_a_validation_problem_names_the_fields_and_never_the_values(
    service: MasterService, secrets: dict[str, str]
) -> None:
    body = GOOD | {"max_engines": "canary-value", "host": 7}
    problem = problem_of(ask(service, "POST", paths.WORKERS, secrets[Role.WORKER], json=body))
    assert sorted(problem["fields"]) == ["host", "max_engines"]
    assert "canary" not in json.dumps(problem)


@pytest.mark.row("S5")
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/xml"])
def test_a_body_must_say_that_it_is_json(
    service: MasterService, secrets: dict[str, str], content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    body = json.dumps(GOOD).encode()
    response = ask(service, "POST", paths.WORKERS, secrets[Role.WORKER], data=body, headers=headers)
    assert response.status_code == 415 and problem_of(response)["code"] == "unsupported_media_type"


@pytest.mark.parametrize("query", ["generation=x", "wait_s=long", "generation=1.5"])
def test_a_query_that_cannot_be_used_is_refused(service: MasterService, secrets: dict[str, str], query: str) -> None:
    response = ask(service, "GET", f"/api/v1/workers/w1/desired?{query}", secrets[Role.WORKER])
    assert response.status_code == 422 and problem_of(response)["fields"]


@pytest.mark.parametrize("name", ["%00", "..%2F..%2Fetc", "a%20b", "%C3%BC", "a" * 4000])
def test_a_name_in_a_path_that_cannot_be_used_is_refused(
    service: MasterService, secrets: dict[str, str], name: str
) -> None:
    response = ask(service, "GET", f"/api/v1/streams/{name}", secrets[Role.ADMIN])
    assert response.status_code in (404, 422)
    problem_of(response)


def test_the_bodies_of_control_requests_are_counted(service: MasterService, admin: MasterClient) -> None:
    before = admin.status().control_received_bytes
    admin.declare_stream(PLATES)
    assert 100 < admin.status().control_received_bytes - before < 10_000


# ── bad connections ──────────────────────────────────────────────────────────────────────────────────────────────────


def dial(service: MasterService) -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=TIMEOUT_S)


def answer_of(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65_536):
        received += part
    return received


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/9.9\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon here\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
    ],
)
def test_a_broken_request_is_answered_with_a_problem_and_the_connection_ends(
    service: MasterService, sent: bytes, status: bytes
) -> None:
    with dial(service) as connection:
        connection.sendall(sent)
        head, _, body = answer_of(connection).partition(b"\r\n\r\n")
    assert head.split()[1] == status and b"application/problem+json" in head
    assert json.loads(body)["status"] == int(status)


@pytest.mark.row("S18")
def test_a_request_that_trickles_in_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "READ_WITHIN_S", 0.6)
    with run_master(tmp_path / "master") as service, dial(service) as connection:
        began = time.monotonic()
        connection.settimeout(0.1)
        received = b""
        for letter in b"GET /healthz HTTP/1.1\r\nHost: " + b"x" * 200:
            try:
                connection.sendall(bytes([letter]))
                received += connection.recv(1000)
                break
            except TimeoutError:
                continue
        assert b"408" in received and time.monotonic() - began < 3.0
