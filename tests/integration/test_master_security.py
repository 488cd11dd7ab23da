"""Whom the control plane refuses: strangers, wrong roles, and tokens and tickets that are not good any more."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from openapi_spec_validator import validate

from benches.master import PLATES, ask_raw, run_master
from harmonicio.control import paths, tickets
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import WorkerRegistration
from harmonicio.core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.roles import Role
from harmonicio.master.service import MasterService

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
PUBLIC = {paths.HEALTH, paths.READY}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MasterService]:
    with run_master(tmp_path_factory.mktemp("data") / "master") as running:
        yield running


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
            response = ask_raw(service, method, concrete(path), encoded)
            assert response.status_code == 401, (method, path)
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.row("S5")
def test_a_token_is_accepted_as_a_bearer_only(service: MasterService, secrets: dict[str, str]) -> None:
    secret = secrets[Role.ADMIN]
    for header in (secret, f"Basic {secret}", f"Token {secret}", f"Bearer{secret}"):
        assert ask_raw(service, "GET", paths.STATUS, None, headers={"Authorization": header}).status_code == 401
    assert ask_raw(service, "GET", f"{paths.STATUS}?token={secret}", None).status_code == 401
    assert ask_raw(service, "GET", paths.STATUS, None, headers={"Authorization": f"bearer {secret}"}).status_code == 200


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
            response = ask_raw(service, method, concrete(path), secrets[role])
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
    assert ask_raw(service, "POST", paths.LEASES, bearer, json=lease).status_code == 200
    for method, path in ALLOWED:
        if path not in (paths.LEASES, paths.LEASES_RENEW, paths.LEASES_RELEASE, paths.OPENAPI):
            assert ask_raw(service, method, concrete(path), bearer).status_code == 403, (method, path)


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
    assert [ask_raw(service, "GET", paths.OPENAPI, bearer).status_code for bearer in refused] == [401] * len(refused)


def test_an_engines_ticket_stays_good_when_the_masters_clock_is_set_back(
    service: MasterService, admin: MasterClient
) -> None:
    from_the_future = tickets.engine_bearer("w1", "e1", engine_ticket(admin, issued_at=time.time() + 3600.0))
    assert ask_raw(service, "GET", paths.OPENAPI, from_the_future).status_code == 200


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
