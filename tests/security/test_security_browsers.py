"""A page in the browser of somebody who runs a master: what it asks in his name comes to nothing."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from benches.master import PLATES, client_of, run_master
from harmonicio.control import paths
from harmonicio.control.client import MasterClient
from harmonicio.core.roles import Role
from harmonicio.master.service import MasterService

pytestmark = pytest.mark.row("S5")

#: What a browser adds by itself when a page of another origin asks.
FOREIGN = {"Origin": "http://evil.example", "Referer": "http://evil.example/", "Cookie": "session=1; token=hio_admin_x"}
#: Bodies that a form, or a script without leave of the other side, can send.
SIMPLE = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
LEASES = b'{"stream": "plates", "source": "s1", "count": 1}'


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MasterService]:
    with run_master(tmp_path / "master") as running:
        yield running


@pytest.fixture
def admin(service: MasterService) -> Iterator[MasterClient]:
    with client_of(service, Role.ADMIN) as client:
        client.declare_stream(PLATES)
        yield client


Answer = tuple[int, dict[str, str]]


def ask(service: MasterService, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Answer:
    with closing(http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=10)) as connection:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}


def test_what_a_page_sends_without_a_token_changes_nothing(service: MasterService, admin: MasterClient) -> None:
    before = admin.streams()
    for method, path in (
        ("POST", paths.LEASES),
        ("PUT", paths.STREAM.format(stream="mine")),
        ("DELETE", paths.STREAM.format(stream="plates")),
        ("DELETE", paths.LEASES),
        ("POST", paths.TOKENS),
    ):
        for kind in (*SIMPLE, "application/json"):
            assert ask(service, method, path, FOREIGN | {"Content-Type": kind}, LEASES)[0] == 401
    assert admin.streams() == before
    assert {each.name for each in admin.tokens()} == {"admin", "source", "viewer", "worker"}


@pytest.mark.parametrize("path", [paths.STATUS, paths.LEASES, paths.HEALTH, paths.TOKENS, "/"])
def test_no_page_is_told_that_it_may_ask_or_see_the_answer(service: MasterService, path: str) -> None:
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization,content-type"}
    for method, more in (("OPTIONS", asked), ("GET", {}), ("POST", {})):
        _, headers = ask(service, method, path, FOREIGN | more)
        assert not [name for name in headers if name.startswith("access-control-")]
        assert "set-cookie" not in headers, "nothing that a browser would send by itself the next time"


@pytest.mark.parametrize("kind", SIMPLE)
def test_a_form_is_no_request_even_with_a_token(service: MasterService, admin: MasterClient, kind: str) -> None:
    token = service.token_file(Role.SOURCE).read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
    assert ask(service, "POST", paths.LEASES, headers, LEASES)[0] == 415


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8710", "127.0.0.1.evil.example", "localhost.evil", "x y"]
)
def test_a_name_that_was_bound_to_this_machine_is_refused_with_and_without_a_token(
    service: MasterService, host: str
) -> None:
    token = service.token_file(Role.ADMIN).read_text().strip()
    for headers in ({"Host": host}, {"Host": host, "Authorization": f"Bearer {token}"}):
        for method, path in (("GET", paths.HEALTH), ("GET", paths.STATUS), ("DELETE", paths.LEASES)):
            status, answered = ask(service, method, path, headers)
            assert status == 421
            assert answered["content-type"] == "application/problem+json"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8710", "LOCALHOST", "[::1]:8710", "m.localhost", "10.0.0.1"])
def test_this_machines_names_and_addresses_are_answered(service: MasterService, host: str) -> None:
    assert ask(service, "GET", paths.HEALTH, {"Host": host})[0] == 200
    assert ask(service, "GET", paths.HEALTH, {"Host": socket.gethostname()})[0] == 200


def test_a_master_that_others_reach_answers_to_names_that_it_does_not_know(tmp_path: Path) -> None:
    with run_master(tmp_path / "open", host="0.0.0.0", is_insecure=True) as service:
        local = service.url.replace("0.0.0.0", "127.0.0.1").removeprefix("http://")
        with closing(http.client.HTTPConnection(local, timeout=10)) as connection:
            connection.request("GET", paths.HEALTH, headers={"Host": "master.example"})
            assert connection.getresponse().status == 200
