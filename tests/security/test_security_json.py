"""JSON that would take much memory or time of who reads it.

The master is a process of its own, and its memory is measured from outside.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass

import pytest

from benches.memory import growth_bytes
from benches.roles import Roles, free_ports
from harmonicio.control import paths
from harmonicio.testing.waiting import wait_until

pytestmark = pytest.mark.row("S16")

MIB = 1024**2
#: What a body may have is a megabyte, and what it says of that is looked at no more than twice.
PROMPT_S = 5.0
SMALL_BYTES = 8 * MIB
#: Of small things there are hundreds of thousands in a megabyte, and each becomes an object or two.
LARGEST_BYTES = 160 * MIB


@dataclass
class Master:
    """A master in a process of its own."""

    roles: Roles
    pid: int


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    roles = Roles(tmp_path_factory.mktemp("master") / "home", *free_ports())
    with roles.running("master") as process:
        wait_until(roles.is_up, 20)
        yield Master(roles, process.pid)


HUNDRED_MB = 100_000_000
KEYS = b",".join(b'"%x": 1' % number for number in range(1_000_000))

BODIES: dict[str, tuple[int, bytes]] = {
    "a million keys": (413, b"{" + KEYS + b"}"),
    "fifty thousand keys": (422, b"{" + KEYS[: KEYS.index(b',"c350"')] + b"}"),
    "100 MB": (413, b" " * HUNDRED_MB),
    "lists in lists": (400, b"[" * 1_000_000),
    "objects in objects": (400, b'{"a":' * 200_000),
    "a long number": (400, b'{"count": ' + b"9" * 1_000_000 + b"}"),
    "numbers without end": (400, b'{"count": [' + b"1e400," * 100_000 + b"1]}"),
    "no number": (400, b'{"count": NaN}'),
    "a number too large": (422, b'{"count": ' + b"9" * 4_000 + b"}"),
    "many lists": (422, b"[" + b"[]," * 340_000 + b"1]"),
    "many mistakes": (422, b'{"sequence": 1, "engines": [' + b"{}," * 340_000 + b"1]}"),
    "many mistakes of another kind": (422, b'{"sequence": 1, "leases": [' + b"1," * 500_000 + b"1]}"),
    "many mistaken plugins": (422, b'{"name": "x", "plugins": {' + KEYS[:900_000].rpartition(b",")[0] + b"}}"),
}
ROUTES = {
    "lease": ("POST", paths.LEASES),
    "renewal": ("POST", paths.LEASES_RENEW),
    "report": ("POST", paths.fill(paths.WORKER_REPORT, worker="w1")),
    "stream": ("PUT", paths.fill(paths.STREAM, stream="x")),
}


def post(
    roles: Roles,
    method: str,
    path: str,
    body: bytes | Iterator[bytes],
    content_type: str = "application/json",
    role: str = "admin",
) -> tuple[int, bytes]:
    """Send a body, as far as it is taken; return status and text of the answer."""
    headers = {"Authorization": f"Bearer {roles.token(role) if role else 'wrong'}", "Content-Type": content_type}
    with closing(http.client.HTTPConnection(roles.url.removeprefix("http://"), timeout=30)) as connection:
        with suppress(ConnectionError):
            connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("route", ROUTES)
def test_a_body_that_is_a_bomb_is_refused_soon_and_in_bounded_memory(master: Master, route: str, body: str) -> None:
    status, text = BODIES[body]
    statuses = []

    def send() -> None:
        answer, said = post(master.roles, *ROUTES[route], text)
        statuses.append(answer)
        assert json.loads(said)["status"] == answer and len(said) < 5_000

    began = time.monotonic()
    assert growth_bytes(master.pid, send) < LARGEST_BYTES
    assert statuses == [status] and time.monotonic() - began < PROMPT_S


def pieces(sent: list[int]) -> Iterator[bytes]:
    """Give 100 MB in chunks, which say nothing of what is to come, and count them."""
    for _ in range(HUNDRED_MB // MIB):
        yield bytes(MIB)
        sent.append(MIB)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("role", ["admin", ""], ids=["administrator", "nobody"])
def test_a_body_of_unsaid_length_is_not_read(master: Master, route: str, role: str) -> None:
    sent: list[int] = []
    answers = []

    def send() -> None:
        answers.append(post(master.roles, *ROUTES[route], pieces(sent), role=role)[0])

    assert growth_bytes(master.pid, send) < SMALL_BYTES
    assert answers == [411] and sum(sent) < HUNDRED_MB / 4, "it is cut off, but for what is on its way"


@pytest.mark.parametrize("content_type", ["text/plain", "application/msgpack", "multipart/form-data; boundary=x", ""])
@pytest.mark.parametrize("route", ROUTES)
def test_a_body_of_another_type_is_not_looked_at(master: Master, route: str, content_type: str) -> None:
    def send() -> None:
        assert post(master.roles, *ROUTES[route], BODIES["many mistakes"][1], content_type)[0] == 415

    assert growth_bytes(master.pid, send) < SMALL_BYTES
