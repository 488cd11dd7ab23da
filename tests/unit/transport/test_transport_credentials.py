"""Certificates that are renewed on the disk are taken over, and what cannot be used never is."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from benches.certificates import identity_of, write_files
from benches.data_port import Ports
from harmonicio.control.settings_files import TlsFiles, load_settings
from harmonicio.core.certificates import NO_TLS, TlsIdentity
from harmonicio.core.errors import ConnectionEnded
from harmonicio.core.lease import Address
from harmonicio.testing.channel_suite import next_event
from harmonicio.testing.waiting import wait_until
from harmonicio.transport import credentials, tcp
from harmonicio.transport.credentials import TlsCredentials
from harmonicio.transport.link import Link
from harmonicio.wire.connection import message_prefix
from harmonicio.wire.events import Hello, OutcomesReceived, Role

OLD, NEW = trustme.CA(), trustme.CA()


@pytest.fixture(autouse=True)
def _looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "LOOK_EVERY_S", 0.0)


@pytest.fixture
def renewed(tmp_path: Path) -> tuple[TlsCredentials, Callable[[TlsIdentity], object]]:
    """Return credentials from files, and what writes others there."""
    variables = write_files(tmp_path, identity_of(OLD, "127.0.0.1"))
    settings = load_settings(environ=variables | {"HARMONICIO_HOME": str(tmp_path)})
    return TlsCredentials(TlsFiles(settings.tls).read), lambda identity: write_files(tmp_path, identity)


def is_believed(address: Address, authority: trustme.CA) -> bool:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    try:
        tcp.dial(address, timeout_s=10, tls=context).close()
    except ConnectionEnded as error:
        assert "is not believed" in error.text
        return False
    return True


@pytest.mark.row("S19")
def test_a_renewed_certificate_is_shown_to_who_comes_then_and_open_connections_go_on(
    ports: Ports, renewed: tuple[TlsCredentials, Callable[[TlsIdentity], object]]
) -> None:
    own, renew = renewed
    port = ports(tls=own)
    link = Link(tcp.dial(port.address, timeout_s=10, tls=own.dialling()), Role.CONNECTOR)
    try:
        link.greet(Hello(Role.CONNECTOR, stream="images"), within_s=10)
        renew(identity_of(NEW, "127.0.0.1"))
        assert is_believed(port.address, NEW) and not is_believed(port.address, OLD)
        wait_until(lambda: port.connections == 1)
        link.send(message_prefix("m", 3), b"abc")
        assert isinstance(next_event(link), OutcomesReceived), "it goes on"
        assert own.identity.authority == NEW.cert_pem.bytes().decode()
    finally:
        link.close()


def test_a_key_that_comes_after_its_certificate_is_waited_for_and_that_is_said_once(
    renewed: tuple[TlsCredentials, Callable[[TlsIdentity], object]], caplog: pytest.LogCaptureFixture
) -> None:
    own, renew = renewed
    before, after = own.identity, identity_of(OLD, "127.0.0.1")
    context = own.listening()
    renew(replace(after, key=before.key))
    assert [own.identity for _ in range(3)] == [before] * 3
    assert own.listening() is context
    assert caplog.text.count("key values mismatch") == 1
    renew(after)
    assert own.identity == after and own.listening() is not context


@pytest.mark.row("S26")
def test_files_that_have_gone_or_are_shown_to_others_change_nothing(
    renewed: tuple[TlsCredentials, Callable[[TlsIdentity], object]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, _ = renewed
    before = own.identity
    (tmp_path / "key").chmod(0o644)
    assert own.identity == before
    (tmp_path / "certificate").unlink()
    assert own.identity == before
    assert "can be read by other users" in caplog.text and "cannot be read" in caplog.text


def test_a_port_neither_begins_nor_ceases_to_speak_tls(caplog: pytest.LogCaptureFixture) -> None:
    for first, then in ((NO_TLS, identity_of(OLD, "127.0.0.1")), (identity_of(OLD, "127.0.0.1"), NO_TLS)):
        own = TlsCredentials(itertools.chain([first], itertools.repeat(then)).__next__)
        assert own.identity == first
    assert "cannot begin or cease to speak TLS" in caplog.text


def test_it_is_not_looked_at_the_files_more_than_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "LOOK_EVERY_S", 60.0)
    looks = []
    own = TlsCredentials(lambda: looks.append(1) or NO_TLS)  # type: ignore[func-returns-value]
    for _ in range(10):
        assert own.listening() is None and own.dialling() is None
    assert len(looks) == 1
