"""Bodies, queries, names and requests that the control plane cannot use."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from benches.master import PLATES, ask_raw, run_master
from harmonicio.control import paths
from harmonicio.control.client import MasterClient
from harmonicio.core.roles import Role
from harmonicio.master import http_server
from harmonicio.master.service import MasterService

TIMEOUT_S = 10.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MasterService]:
    with run_master(tmp_path_factory.mktemp("data") / "master") as running:
        yield running


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────────


def problem_of(response: requests.Response) -> dict[str, Any]:
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == response.status_code
    return problem


def test_what_is_not_there_is_a_problem_with_a_stable_code(service: MasterService, secrets: dict[str, str]) -> None:
    token = secrets[Role.ADMIN]
    assert problem_of(ask_raw(service, "GET", "/api/v1/nowhere", token))["code"] == "not_found"
    assert problem_of(ask_raw(service, "GET", "/api/v1/streams/nothing", token))["code"] == "not_found"
    refused = ask_raw(service, "PATCH", paths.STREAMS, token)
    assert problem_of(refused)["code"] == "method_not_allowed" and "GET" in refused.headers["Allow"]
    assert ask_raw(service, "GET", "/api/v1//streams", token).status_code == 404


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
    response = ask_raw(service, "POST", paths.WORKERS, secrets[Role.WORKER], data=body, headers=headers)
    assert response.status_code == status
    assert len(response.content) < 1_000
    if status != 200:
        problem_of(response)


def test_a_validation_problem_names_the_fields_and_never_the_values(
    service: MasterService, secrets: dict[str, str]
) -> None:
    body = GOOD | {"max_engines": "canary-value", "host": 7}
    problem = problem_of(ask_raw(service, "POST", paths.WORKERS, secrets[Role.WORKER], json=body))
    assert sorted(problem["fields"]) == ["host", "max_engines"]
    assert "canary" not in json.dumps(problem)


@pytest.mark.row("S5")
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/xml"])
def test_a_body_must_say_that_it_is_json(
    service: MasterService, secrets: dict[str, str], content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    body = json.dumps(GOOD).encode()
    response = ask_raw(service, "POST", paths.WORKERS, secrets[Role.WORKER], data=body, headers=headers)
    assert response.status_code == 415 and problem_of(response)["code"] == "unsupported_media_type"


@pytest.mark.parametrize("query", ["generation=x", "wait_s=long", "generation=1.5"])
def test_a_query_that_cannot_be_used_is_refused(service: MasterService, secrets: dict[str, str], query: str) -> None:
    response = ask_raw(service, "GET", f"/api/v1/workers/w1/desired?{query}", secrets[Role.WORKER])
    assert response.status_code == 422 and problem_of(response)["fields"]


@pytest.mark.parametrize("name", ["%00", "..%2F..%2Fetc", "a%20b", "%C3%BC", "a" * 4000])
def test_a_name_in_a_path_that_cannot_be_used_is_refused(
    service: MasterService, secrets: dict[str, str], name: str
) -> None:
    response = ask_raw(service, "GET", f"/api/v1/streams/{name}", secrets[Role.ADMIN])
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
