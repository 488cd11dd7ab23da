"""Generated requests over every route: a short form of ``make fuzz-rest``."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fuzzing import rest
from harmonicio.core.roles import Role
from harmonicio.master import http_server
from harmonicio.master.app import create_app
from harmonicio.master.service import MasterOptions, MasterService

EXAMPLES = 3


@pytest.fixture
def target(tmp_path: Path) -> Iterator[rest.Target]:
    options = MasterOptions(tmp_path / "master", port=0, data_port=0, settle_s=0.0)
    with MasterService(options) as service, closing(rest.Target(service)) as prepared:
        yield prepared


def test_the_master_answers_any_request_of_anybody_as_its_document_says(
    target: rest.Target, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        tally = rest.run(target, examples=EXAMPLES, seed_number=None)
    assert set(tally.by_operation) == set(target.endpoints) | {"document.show"}
    assert {200, 204, 401, 403, 404, 422} <= set(tally.statuses)
    # Most of what needs no body was answered as it should be when all is well, not only refused.
    bodiless = {name for name, endpoint in target.endpoints.items() if endpoint.body is None}
    refused_only = {name for name in bodiless if not {200, 204} & set(tally.by_operation[name])}
    assert len(refused_only) < len(bodiless) / 4, refused_only
    assert [record.getMessage() for record in caplog.records] == []


def test_no_route_is_missing_from_the_document(target: rest.Target) -> None:
    served = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in create_app(target.service.master, target.endpoints.values()).url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    told = {(method.upper(), path) for path, methods in target.admin.openapi()["paths"].items() for method in methods}
    assert served == told


# ── what no client would send ────────────────────────────────────────────────────────────────────────────────────────

JSON = b"Host: x\r\nContent-Type: application/json\r\nAuthorization: Bearer TOKEN\r\n"
POST = b"POST /api/v1/tokens HTTP/1.1\r\n" + JSON
BODY = b'{"name": "n", "role": "viewer"}'
RAW = {
    "a body that is shorter than it says": POST + b"Content-Length: 500\r\n\r\n" + BODY,
    "a body that is longer than it says": POST + b"Content-Length: 5\r\n\r\n" + BODY,
    "no length": POST + b"\r\n" + BODY,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "a length that is no number": POST + b"Content-Length: 0x10\r\n\r\n" + BODY,
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 500\r\n\r\n" + BODY,
    "a length above every limit": POST + b"Content-Length: 104857600\r\n\r\n" + bytes(1000),
    "a length of hundreds of digits": POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n" + bytes(1000),
    "chunks": POST + b"Transfer-Encoding: chunked\r\n\r\n1f\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunks and a length": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n1f\r\n"
    + BODY
    + b"\r\n0\r\n\r\n",
    "a chunk that says too much": POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n" + BODY,
    "a chunk of no number": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + BODY,
    "a negative chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n" + BODY,
    "an unknown coding": POST + b"Transfer-Encoding: gzip\r\n\r\n" + BODY,
    "a compressed body": POST + b"Content-Encoding: gzip\r\nContent-Length: 31\r\n\r\n" + BODY,
    "a NUL in the path": b"GET /api/v1/st\0atus HTTP/1.1\r\n" + JSON + b"\r\n",
    "a NUL in a header": b"GET /api/v1/status HTTP/1.1\r\nX-A: a\0b\r\n" + JSON + b"\r\n",
    "a line end in the path": b"GET /api/v1/streams/a%0d%0aX-B:%201 HTTP/1.1\r\n" + JSON + b"\r\n",
    "a naked line feed": b"GET /api/v1/status HTTP/1.1\nHost: x\n\n",
    "a header that goes on": b"GET /api/v1/status HTTP/1.1\r\nX-A: a\r\n b\r\n" + JSON + b"\r\n",
    "a header without a name": b"GET /api/v1/status HTTP/1.1\r\n: a\r\n" + JSON + b"\r\n",
    "many headers": b"GET /api/v1/status HTTP/1.1\r\n" + b"X-A: a\r\n" * 20_000 + JSON + b"\r\n",
    "a path that is too long": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n" + JSON + b"\r\n",
    "a broken escape": b"GET /api/v1/streams/%zz HTTP/1.1\r\n" + JSON + b"\r\n",
    "half an escape": b"GET /api/v1/streams/% HTTP/1.1\r\n" + JSON + b"\r\n",
    "another version": b"GET /api/v1/status HTTP/9.9\r\n" + JSON + b"\r\n",
    "an unknown method": b"BREW /api/v1/status HTTP/1.1\r\n" + JSON + b"\r\n",
    "a tunnel": b"CONNECT example.org:443 HTTP/1.1\r\n" + JSON + b"\r\n",
    "a path of somebody else": b"GET http://example.org/api/v1/status HTTP/1.1\r\n" + JSON + b"\r\n",
    "an upgrade": b"GET /api/v1/status HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" + JSON + b"\r\n",
    "an expectation": POST + b"Expect: 100-continue\r\nContent-Length: 31\r\n\r\n" + BODY,
    "a body in UTF-16": POST + b"Content-Length: 62\r\n\r\n" + BODY.decode().encode("utf-16-le"),
    "a token that is not ASCII": b"GET /api/v1/status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
}


#: HTTP has these for what a server does not know; they say nothing against it.
NOT_KNOWN = {501, 505}


def test_requests_that_no_client_would_send_are_answered_or_cut_off(
    target: rest.Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "READ_WITHIN_S", 0.5)
    with caplog.at_level(logging.WARNING):
        for name, raw in RAW.items():
            answer = exchange(target, raw)
            statuses = [int(status) for status in re.findall(rb"^HTTP/1\.[01] (\d+)", answer, re.M)]
            assert all(status < 500 or status in NOT_KNOWN for status in statuses), (name, answer[:500])
            head = answer.partition(b"\r\n\r\n")[0]
            assert b"X-B" not in head and b"Traceback" not in answer, (name, answer[:500])
            assert b'"internal"' not in answer, (name, answer[:500])
        target.serves()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def exchange(target: rest.Target, raw: bytes) -> bytes:
    """Send the bytes and the end of the stream; return what comes."""
    host, port = target.service.url.removeprefix("http://").split(":")
    answer = b""
    # It may be cut off while it is still being sent.
    with socket.create_connection((host, int(port)), timeout=15) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(raw.replace(b"TOKEN", target.tokens[Role.ADMIN].encode()))
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError as error:  # Cut off between the two calls.
            assert error.errno == errno.ENOTCONN
        while piece := sock.recv(65_536):
            answer += piece
    return answer


def test_a_body_of_100_megabytes_is_refused_before_it_is_read(target: rest.Target) -> None:
    host, port = target.service.url.removeprefix("http://").split(":")
    head = POST.replace(b"TOKEN", target.tokens[Role.ADMIN].encode()) + b"Content-Length: 104857600\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=15) as sock:
        sock.sendall(head)
        assert sock.recv(65_536).split()[1] == b"413"
