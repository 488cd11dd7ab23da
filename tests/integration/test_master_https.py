"""The REST API over TLS: who is refused and hears why, who cannot hold others up, and certificates that are renewed."""

from __future__ import annotations

import datetime
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from benches.certificates import believing, identity_of, showing, write_files
from harmonicio.control.client import MasterClient
from harmonicio.control.settings_files import TlsFiles, load_settings
from harmonicio.core.certificates import TlsIdentity
from harmonicio.core.errors import ConfigurationError, InvalidInput, MasterUnavailable
from harmonicio.core.roles import Role
from harmonicio.master import http_server
from harmonicio.master.service import MasterOptions, MasterService
from harmonicio.transport.credentials import TlsCredentials

AUTHORITY = trustme.CA()
HOST = "127.0.0.1"
LONG_AGO = datetime.datetime(2001, 1, 1)

StartMaster = Callable[..., MasterService]


@pytest.fixture
def start_master(tmp_path: Path) -> Iterator[StartMaster]:
    with ExitStack() as running:

        def start(tls: TlsCredentials | None = None, host: str = HOST) -> MasterService:
            shown = tls or showing(AUTHORITY, HOST)
            return running.enter_context(
                MasterService(MasterOptions(tmp_path / "master", host, port=0, data_port=0, tls=shown))
            )

        yield start


def client_of(service: MasterService, own: TlsIdentity | None = None, url: str = "") -> MasterClient:
    token = service.token_file(Role.ADMIN).read_text()
    tls = None if own is None else TlsCredentials.of(own)
    return MasterClient(url or service.url, token, tls=tls)


def refusal(service: MasterService, own: TlsIdentity | None, url: str = "") -> MasterUnavailable:
    with client_of(service, own, url) as client, pytest.raises(MasterUnavailable) as refused:
        client.status()
    return refused.value


def test_all_requests_go_over_tls_where_the_master_has_a_certificate(start_master: StartMaster) -> None:
    service = start_master()
    assert service.url.startswith("https://")
    with client_of(service, believing(AUTHORITY)) as client:
        assert client.health().status == "ok"
        assert client.status().streams == ()
        view = client.create_token("one", Role.SOURCE)
        client.revoke_token(view.name)


@pytest.mark.row("S19")
def test_a_request_without_tls_is_answered_in_plain_text_and_reaches_nothing(start_master: StartMaster) -> None:
    service = start_master()
    with (
        client_of(service, url=service.url.replace("https", "http")) as client,
        pytest.raises(InvalidInput, match=r"speaks HTTPS only. Write the address with https://"),
    ):
        client.status()


@pytest.mark.row("S19")
def test_another_authority_an_expired_certificate_and_another_host_are_refused_with_what_to_do(
    start_master: StartMaster,
) -> None:
    service = start_master()
    error = refusal(service, believing(trustme.CA()))
    assert "not believed: unable to get local issuer certificate" in error.text and "tls.authority" in error.hint
    assert "tls.authority" in refusal(service, None).hint
    error = refusal(service, believing(AUTHORITY), service.url.replace(HOST, "localhost"))
    assert "not valid for 'localhost'" in error.text and "names the host as it is dialled" in error.hint


@pytest.mark.row("S19")
def test_an_expired_certificate_is_refused_with_what_to_do(start_master: StartMaster) -> None:
    service = start_master(showing(AUTHORITY, HOST, not_before=LONG_AGO, not_after=LONG_AGO + datetime.timedelta(1)))
    error = refusal(service, believing(AUTHORITY))
    assert "certificate has expired" in error.text and "Renew it" in error.hint


@pytest.mark.row("S19")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
def test_an_older_tls_is_refused(start_master: StartMaster, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, version
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    port = int(start_master().url.rpartition(":")[2])
    with (
        socket.create_connection((HOST, port), timeout=10) as sock,
        pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"),
    ):
        context.wrap_socket(sock, server_hostname=HOST)


@pytest.mark.row("S19")
def test_with_mutual_tls_only_who_shows_a_certificate_is_heard(start_master: StartMaster) -> None:
    service = start_master(showing(AUTHORITY, HOST, is_mutual=True))
    with client_of(service, identity_of(AUTHORITY, "source.example")) as client:
        assert client.status().streams == ()
    stranger = identity_of(trustme.CA(), "source.example")
    for own in (
        believing(AUTHORITY),
        TlsIdentity(stranger.certificate, stranger.key, believing(AUTHORITY).authority),
    ):
        error = refusal(service, own)
        assert "ended the TLS connection" in error.text and "tls.certificate and tls.key" in error.hint


def test_who_does_not_finish_the_handshake_holds_nobody_up_and_is_cut(
    start_master: StartMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "READ_WITHIN_S", 2.0)
    service = start_master()
    port = int(service.url.rpartition(":")[2])
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((HOST, port), timeout=10)) for _ in range(20)]
        for sock in slow:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        began = time.monotonic()
        with client_of(service, believing(AUTHORITY)) as client:
            assert client.status().streams == ()
        assert time.monotonic() - began < 1.5, "it was served before the others were cut"
        for sock in slow:
            while sock.recv(1000):
                pass


@pytest.mark.row("S19")
def test_a_renewed_certificate_is_shown_from_then_on_without_a_restart(
    start_master: StartMaster, tmp_path: Path
) -> None:
    variables = write_files(tmp_path, identity_of(AUTHORITY, HOST))
    files = TlsFiles(load_settings(environ=variables | {"HARMONICIO_HOME": str(tmp_path)}).tls)
    service, later = start_master(TlsCredentials(files.read)), trustme.CA()
    token = service.token_file(Role.ADMIN).read_text()
    with MasterClient(service.url, token, tls=TlsCredentials(files.read)) as client:
        assert client.status().streams == ()
        write_files(tmp_path, identity_of(later, HOST))
        deadline = time.monotonic() + 10
        while True:
            try:
                with client_of(service, believing(later)) as other:
                    other.status()
                break
            except MasterUnavailable:
                assert time.monotonic() < deadline, "the new certificate is not shown"
        assert client.status().streams == ()
    assert "not believed" in refusal(service, believing(AUTHORITY)).text


@pytest.mark.row("S6")
def test_beyond_loopback_a_certificate_is_needed_or_the_word_that_none_is(
    tmp_path: Path, start_master: StartMaster
) -> None:
    with pytest.raises(ConfigurationError, match="without TLS") as refused:
        MasterService(MasterOptions(tmp_path / "other", "0.0.0.0", port=0, data_port=0))
    assert "tls.certificate" in refused.value.hint and "--insecure" in refused.value.hint
    service = start_master(host="0.0.0.0")
    with client_of(service, believing(AUTHORITY), service.url.replace("0.0.0.0", HOST)) as client:
        assert client.health().status == "ok"
