"""The client maps whatever a server does to one clear error of ours."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from harmonicio.control import json_codec, paths
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import BacklogAccess, LeaseGrant, LeaseRequest
from harmonicio.core import errors
from harmonicio.core.lease import Address
from harmonicio.testing.leaks import Holdings, leaks_since


class Scripted(BaseHTTPRequestHandler):
    """Answers with what the test has put down; an answer of ``None`` breaks the connection."""

    answers: ClassVar[list[tuple[int, bytes] | None]] = []
    seen: ClassVar[list[tuple[str, str, str | None]]] = []
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.command, self.path, self.headers.get("Authorization")))
        answer = self.answers.pop(0)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer[0])
        self.send_header("Content-Length", str(len(answer[1])))
        self.end_headers()
        self.wfile.write(answer[1])

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, format: str, *arguments: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def client() -> Iterator[MasterClient]:
    Scripted.answers.clear()
    Scripted.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        with MasterClient(f"http://127.0.0.1:{server.server_port}/", "secret") as opened:
            yield opened
        server.shutdown()
        serving.join()


def problem(status: int, **more: object) -> tuple[int, bytes]:
    return status, json.dumps({"title": "T", "status": status, "code": "c", "detail": "It is so.", **more}).encode()


GRANT = LeaseGrant((), BacklogAccess(Address("127.0.0.1", 8711), "ticket", 900.0), "queue", 1.0)
HEALTHY = (200, b'{"status": "ok"}')


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidInput),
        (401, errors.NotAllowed),
        (403, errors.NotAllowed),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (413, errors.InvalidInput),
        (415, errors.InvalidInput),
        (422, errors.InvalidInput),
        (500, errors.HarmonicIOError),
        (503, errors.Unavailable),
    ],
)
def test_a_problem_becomes_the_error_that_it_was(
    client: MasterClient, status: int, kind: type[errors.HarmonicIOError]
) -> None:
    Scripted.answers.append(problem(status, hint="Do that.", retry_after_s=2.5))
    with pytest.raises(kind, match=r"It is so. Do that.") as raised:
        client.health()
    assert type(raised.value) is kind
    assert getattr(raised.value, "retry_after_s", 2.5) == 2.5


@pytest.mark.parametrize(
    ("code", "kind"),
    [("backlog_full", errors.BacklogFull), ("storage", errors.StorageError), ("of_tomorrow", errors.Unavailable)],
)
def test_a_code_says_more_than_the_status(client: MasterClient, code: str, kind: type[errors.HarmonicIOError]) -> None:
    Scripted.answers.append(problem(503, code=code))
    with pytest.raises(kind) as raised:
        client.health()
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("more", "is_retryable"),
    [
        ({"code": "storage", "retryable": False}, False),
        ({"code": "storage", "retryable": True}, True),
        ({"code": "not_found", "retryable": True}, False),
        ({"code": "of_a_proxy"}, True),
    ],
)
def test_what_a_master_calls_final_stays_final(
    client: MasterClient, more: dict[str, object], is_retryable: bool
) -> None:
    Scripted.answers.append(problem(503, **more))
    with pytest.raises(errors.HarmonicIOError) as raised:
        client.health()
    assert raised.value.retryable is is_retryable


@pytest.mark.parametrize("answer", [(500, b"<html>"), (502, b""), (302, b""), (404, b"[]")])
def test_an_answer_that_is_no_problem_is_an_error_all_the_same(client: MasterClient, answer: tuple[int, bytes]) -> None:
    Scripted.answers.append(answer)
    with pytest.raises(errors.HarmonicIOError, match=f"answered {answer[0]}"):
        client.health()


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"{}", b'{"status": 7}'])
def test_an_answer_of_somebody_else_is_an_error(client: MasterClient, body: bytes) -> None:
    Scripted.answers.append((200, body))
    with pytest.raises(errors.HarmonicIOError):
        client.health()


def test_the_token_goes_along_as_a_bearer(client: MasterClient) -> None:
    Scripted.answers.append(HEALTHY)
    client.health()
    assert Scripted.seen == [("GET", "/healthz", "Bearer secret")]


def test_the_line_end_of_a_token_file_is_no_part_of_the_token(client: MasterClient) -> None:
    Scripted.answers.append(HEALTHY)
    with MasterClient(client.url, "secret\n") as other:
        other.health()
    assert Scripted.seen == [("GET", "/healthz", "Bearer secret")]


@pytest.mark.parametrize("token", ["sec\nret", "sec ret", "sécret", "sec\0ret"])
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(errors.InvalidInput, match="The token is not one word") as refusal:
        MasterClient("http://127.0.0.1:1", token)
    assert token not in f"{refusal.value} {refusal.value.hint}"


def test_a_token_that_is_refused_is_read_again_and_tried_again_if_it_is_another(client: MasterClient) -> None:
    tokens = iter(["old", "new", "new"])
    with MasterClient(client.url, lambda: next(tokens)) as own:
        Scripted.answers += [problem(401), HEALTHY, problem(401)]
        assert own.health().status == "ok"
        with pytest.raises(errors.NotAllowed):
            own.health()
    assert [bearer for _, _, bearer in Scripted.seen] == ["Bearer old", "Bearer new", "Bearer new"]


def test_a_request_that_changes_nothing_twice_is_repeated_once_when_the_connection_breaks(client: MasterClient) -> None:
    Scripted.answers += [None, HEALTHY]
    assert client.health().status == "ok"
    Scripted.answers += [None, None]
    with pytest.raises(errors.MasterUnavailable):
        client.health()
    assert len(Scripted.seen) == 4


def test_a_request_for_leases_is_not_repeated(client: MasterClient) -> None:
    Scripted.answers += [None, HEALTHY]
    with pytest.raises(errors.MasterUnavailable):
        client.request_leases(LeaseRequest("plates", "s1", 1))
    assert len(Scripted.seen) == 1


def test_names_are_quoted_into_paths(client: MasterClient) -> None:
    Scripted.answers.append(problem(404))
    with pytest.raises(errors.NotFound):
        client.outcome("plates", "parent/1 ?#%")
    assert Scripted.seen[0][1] == "/api/v1/streams/plates/outcomes/parent%2F1%20%3F%23%25"


def test_feature_rows_pass_through_as_plain_json(client: MasterClient) -> None:
    Scripted.answers += [(200, b'{"accepted": 1}'), (200, b'[{"score": 0.5}]')]
    assert client.post_feature_rows("plates", [{"message": "m1", "score": 0.5}]) == {"accepted": 1}
    assert client.feature_rows("plates", tier="a", limit=5) == [{"score": 0.5}]
    assert Scripted.seen[1][1] == "/api/v1/streams/plates/feature-rows?tier=a&limit=5"


def test_proxies_and_other_credentials_of_the_environment_are_ignored(
    client: MasterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    Scripted.answers.append(HEALTHY)
    assert client.health().status == "ok"


@pytest.mark.parametrize("url", ["", "127.0.0.1:8710", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(errors.InvalidInput, match="http://host:port"):
        MasterClient(url)


def test_a_master_that_is_not_there_is_named_with_what_to_do() -> None:
    with MasterClient("http://127.0.0.1:9") as client, pytest.raises(errors.MasterUnavailable) as raised:
        client.status()
    assert "http://127.0.0.1:9" in str(raised.value) and "refused" in str(raised.value)
    assert raised.value.retryable and raised.value.hint


def test_a_closed_client_says_so(client: MasterClient) -> None:
    client.close()
    with pytest.raises(errors.ConnectionEnded):
        client.health()


def test_a_closed_client_has_closed_its_connections_although_somebody_keeps_an_error_of_it(
    client: MasterClient,
) -> None:
    before = Holdings.now()
    Scripted.answers += [None, HEALTHY]
    with pytest.raises(errors.MasterUnavailable) as kept:
        client.request_leases(LeaseRequest("plates", "s1", 1))
    client.health()
    assert Holdings.now().beyond(before)
    client.close()
    assert leaks_since(before) == []
    assert kept.value.__cause__ is not None


def test_a_request_whose_connections_were_closed_because_certificates_were_renewed_is_sent_over_others(
    client: MasterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, renewed = client._opened, client._opened()
    renewed.get_adapter(client.url).poolmanager.connection_from_url(client.url).close()
    client._session = None
    sessions = iter([renewed])
    monkeypatch.setattr(client, "_opened", lambda: next(sessions, None) or opened())
    Scripted.answers.append((200, json_codec.dumps(GRANT)))
    assert client.request_leases(LeaseRequest("plates", "s1", 1)) == GRANT
    assert len(Scripted.seen) == 1
    renewed.close()


def test_importing_the_client_does_not_import_requests() -> None:
    code = "import sys, harmonicio.control.client; sys.exit('requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_the_master_would_not_read_is_not_sent(client: MasterClient) -> None:
    with pytest.raises(errors.InvalidInput, match=r"LeaseRequest of \d+ bytes is too long for the master"):
        client.request_leases(LeaseRequest("plates", "s" * paths.MAX_BODY_BYTES, 1))
    assert Scripted.seen == []
