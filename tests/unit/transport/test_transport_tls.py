"""TLS: who is refused hears why and what to do, and what no selector sees is read all the same."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import trustme

from benches.certificates import believing, contexts_of, identity_of, showing
from benches.data_port import Ports, Receptionist
from harmonicio.core.certificates import TlsIdentity
from harmonicio.core.errors import ConfigurationError, ConnectionEnded, RemoteProtocolError
from harmonicio.core.lease import Address
from harmonicio.testing.channel_suite import next_event
from harmonicio.testing.waiting import wait_until
from harmonicio.transport import tcp, tls
from harmonicio.transport.credentials import TlsCredentials
from harmonicio.transport.data_port import DataPort
from harmonicio.transport.link import Link
from harmonicio.wire.connection import message_prefix
from harmonicio.wire.events import Hello, OutcomesReceived, Role

AUTHORITY = trustme.CA()
BELIEVING, LISTENING = contexts_of(AUTHORITY, "127.0.0.1")
SHOWING = showing(AUTHORITY, "127.0.0.1")
BELIEVED = believing(AUTHORITY).authority
LONG_AGO = datetime.datetime(2001, 1, 1)


@pytest.fixture
def dialled_over_tls() -> Iterator[Callable[[Address], Link]]:
    """Dial ports over TLS as a connector that has been greeted; the links are closed at the end."""
    with contextlib.ExitStack() as stack:

        def dial(address: Address) -> Link:
            link = Link(tcp.dial(address, timeout_s=10, tls=BELIEVING), Role.CONNECTOR)
            stack.callback(link.close)
            link.greet(Hello(Role.CONNECTOR, stream="images"), within_s=10)
            return link

        yield dial


def refusal(port: DataPort, context: ssl.SSLContext | None = BELIEVING) -> ConnectionEnded:
    with pytest.raises(ConnectionEnded) as caught:
        tcp.dial(replace(port.address, speaks_tls=True), timeout_s=10, tls=context)
    wait_until(lambda: port.connections == 0)
    return caught.value


# ── the ordinary life ────────────────────────────────────────────────────────────────────────────────────────────────


def test_messages_cross_a_port_that_speaks_tls(ports: Ports, dialled_over_tls: Callable[[Address], Link]) -> None:
    link = dialled_over_tls(ports(tls=SHOWING).address)
    assert "secured" in repr(link.channel)
    for size in (3, 20_000, 300_000):
        link.send(message_prefix("m", size), bytes(size))
        assert isinstance(next_event(link), OutcomesReceived)


def test_what_lies_between_tls_and_the_selector_is_served_when_no_thread_is_free(
    ports: Ports, dialled_over_tls: Callable[[Address], Link], receptionist: Receptionist
) -> None:
    """With one thread the port goes from one connection to the next although more of the first has been read."""
    port = ports(tls=SHOWING, max_threads=1)
    links = [dialled_over_tls(port.address) for _ in range(3)]
    small = message_prefix("m", 100) + bytes(100)
    for _ in range(20):
        for link in links:
            link.send(*[small] * 400)
    for link in links:
        answered = 0
        while answered < 8_000:
            event = next_event(link)
            assert isinstance(event, OutcomesReceived)
            answered += sum(each.last - each.first + 1 for each in event.ranges)
        assert answered == 8_000


def test_idle_connections_cost_no_thread(ports: Ports, dialled_over_tls: Callable[[Address], Link]) -> None:
    port = ports(tls=SHOWING, max_threads=2)
    links = [dialled_over_tls(port.address) for _ in range(20)]
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("test-data")]
    assert len(threads) <= 2 and port.connections == len(links)


# ── who is refused ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("S19")
def test_an_authority_that_is_not_known_is_refused(ports: Ports, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    error = refusal(ports(tls=SHOWING), contexts_of(trustme.CA(), "127.0.0.1")[0])
    assert "certificate" in error.text and "unable to get local issuer certificate" in error.text
    assert "tls.authority" in error.hint
    assert "unknown ca" in caplog.text, "the listener's log says it, too"


def test_without_an_authority_those_of_the_host_are_believed(ports: Ports) -> None:
    error = refusal(ports(tls=SHOWING), None)
    assert "issuer certificate" in error.text and "tls.authority" in error.hint


@pytest.mark.row("S19")
def test_a_certificate_that_has_expired_is_refused(ports: Ports) -> None:
    expired = showing(AUTHORITY, "127.0.0.1", not_before=LONG_AGO, not_after=LONG_AGO + datetime.timedelta(1))
    error = refusal(ports(tls=expired))
    assert "has expired" in error.text and "Renew it" in error.hint


@pytest.mark.row("S19")
def test_a_certificate_of_another_host_is_refused(ports: Ports) -> None:
    error = refusal(ports(tls=showing(AUTHORITY, "elsewhere.example", "192.0.2.1")))
    assert "not valid for '127.0.0.1'" in error.text and "names the address as it is dialled" in error.hint


@pytest.mark.row("S19")
def test_a_dialler_without_tls_hears_that_the_port_speaks_it(ports: Ports, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    address = ports(tls=SHOWING).address
    assert address.speaks_tls
    link = Link(tcp.dial(replace(address, speaks_tls=False), timeout_s=5), Role.CONNECTOR)
    try:
        with pytest.raises(RemoteProtocolError, match="speaks TLS only") as caught:
            link.greet(Hello(Role.CONNECTOR), within_s=5)
    finally:
        link.close()
    assert "over TLS" in caught.value.hint
    assert "speaks TLS only" in caplog.text


def test_a_port_without_tls_is_not_taken_for_one_that_speaks_it(ports: Ports) -> None:
    error = refusal(ports())
    assert "does not speak TLS" in error.text and "tls.certificate" in error.hint


@pytest.mark.row("S19")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_an_older_tls_is_refused(ports: Ports, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    port = ports(tls=SHOWING)
    with (
        socket.create_connection((port.address.host, port.address.port), timeout=10) as sock,
        pytest.raises(ssl.SSLError, match=re.compile("alert protocol version", re.IGNORECASE)),
    ):
        context.wrap_socket(sock, server_hostname="127.0.0.1")
    wait_until(lambda: "unsupported protocol" in caplog.text)


@pytest.mark.parametrize(
    "bytes_of_others",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0" * 100,
        b"\x16\x03\x01" + b"\xff" * 999,
    ],
    ids=["HTTP", "SSH", "zeros", "broken hello"],
)
def test_other_protocols_get_no_answer_that_means_anything(
    ports: Ports, raw: Callable[[Address], socket.socket], bytes_of_others: bytes
) -> None:
    port = ports(tls=SHOWING)
    sock = raw(port.address)
    sock.sendall(bytes_of_others)
    said = b""
    while more := sock.recv(4096):
        said += more
    assert len(said) < 20 and b"HI" not in said
    wait_until(lambda: port.connections == 0)


def test_a_handshake_that_is_not_finished_is_cut_and_holds_no_thread(
    ports: Ports, raw: Callable[[Address], socket.socket], dialled_over_tls: Callable[[Address], Link]
) -> None:
    port = ports(tls=SHOWING, max_threads=1, greeting_within_s=1.0)
    silent, trickling = raw(port.address), raw(port.address)
    trickling.sendall(b"\x16\x03\x01\x02\x00\x01")
    link = dialled_over_tls(port.address)
    link.send(message_prefix("m", 3), b"abc")
    assert isinstance(next_event(link), OutcomesReceived), "others are served meanwhile"
    for sock in (silent, trickling):
        assert sock.recv(100) == b"", "both are cut"
    wait_until(lambda: port.connections == 1)


def test_nothing_is_sent_before_the_handshake() -> None:
    ours, theirs = socket.socketpair()
    channel = tls.TlsChannel(ours, "somebody", LISTENING)
    with theirs, pytest.raises(ConnectionEnded, match="before the TLS handshake"):
        channel.send_all([b"secret"])
    channel.close()


def test_bytes_that_were_changed_on_the_way_end_the_connection() -> None:
    ours, theirs = socket.socketpair()
    listener = tls.TlsChannel(theirs, "dialler", LISTENING)
    dialler = tls.TlsChannel(ours, "listener", BELIEVING, "127.0.0.1")
    shaking = threading.Thread(target=lambda: [listener.receive_into(memoryview(bytearray(1))) for _ in range(3)])
    shaking.start()
    dialler.secure(until=float("inf"))
    shaking.join()
    ours.sendall(b"\x17\x03\x03\x00\x20" + os.urandom(32))
    with pytest.raises(ConnectionEnded, match="TLS connection to dialler broke: decryption failed"):
        listener.receive_exactly(memoryview(bytearray(10)))
    dialler.close()
    listener.close()


def test_a_host_that_no_certificate_can_name_is_an_error_of_ours(ports: Ports) -> None:
    port = ports(tls=SHOWING).address.port
    with pytest.raises(ConnectionEnded, match="No data connection"):
        tcp.dial(Address(".127.0.0.1", port, speaks_tls=True), timeout_s=2, tls=BELIEVING)


def test_a_dial_over_tls_that_is_not_wanted_any_more_ends() -> None:
    listener = tcp.listen("127.0.0.1", 0)
    address = Address(*listener.getsockname()[:2], speaks_tls=True)
    asked = iter([True, True, False])
    try:
        with pytest.raises(ConnectionEnded, match="did not finish the TLS handshake"):
            tcp.dial(address, timeout_s=20, is_wanted=lambda: next(asked, False), tls=BELIEVING)
    finally:
        listener.close()


# ── certificates that cannot be used ─────────────────────────────────────────────────────────────────────────────────


def test_certificates_and_keys_that_cannot_be_used_are_refused_before_anybody_listens() -> None:
    one, other = identity_of(AUTHORITY, "127.0.0.1"), identity_of(AUTHORITY, "127.0.0.1")
    with pytest.raises(ConfigurationError, match="key values mismatch"):
        TlsCredentials.of(replace(one, key=other.key))
    for certificate, key in ((one.key, one.key), (one.certificate, ""), ("\0", "no PEM")):
        with pytest.raises(ConfigurationError, match="cannot be used") as caught:
            TlsCredentials.of(TlsIdentity(certificate, key))
        assert "PEM" in caught.value.hint
    for authority in ("no PEM", one.key, "äöü"):
        with pytest.raises(ConfigurationError, match="authority"):
            TlsCredentials.of(TlsIdentity(authority=authority))


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it() -> None:
    from cryptography.hazmat.primitives import serialization

    identity = identity_of(AUTHORITY, "127.0.0.1")
    key = serialization.load_pem_private_key(identity.key.encode(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    ).decode()
    with pytest.raises(ConfigurationError, match="has a password"):
        TlsCredentials.of(replace(identity, key=locked))


@pytest.mark.parametrize("lacking", ["certificate", "authority"])
def test_mutual_tls_needs_a_certificate_and_an_authority(lacking: str) -> None:
    identity = identity_of(AUTHORITY, "127.0.0.1", is_mutual=True)
    with pytest.raises(ConfigurationError, match="no mutual TLS") as caught:
        TlsCredentials.of(replace(identity, **{lacking: ""}))
    assert "tls.mutual" in caught.value.hint


# ── both sides show one ──────────────────────────────────────────────────────────────────────────────────────────────


def test_who_must_show_a_certificate_and_has_one_is_served(ports: Ports) -> None:
    port = ports(tls=showing(AUTHORITY, "127.0.0.1", is_mutual=True))
    link = Link(
        tcp.dial(port.address, timeout_s=10, tls=showing(AUTHORITY, "source.example").dialling()), Role.CONNECTOR
    )
    try:
        link.greet(Hello(Role.CONNECTOR, stream="images"), within_s=10)
    finally:
        link.close()


@pytest.mark.row("S19")
@pytest.mark.parametrize(
    ("own", "said"),
    [
        (TlsIdentity(), "peer did not return a certificate"),
        (identity_of(trustme.CA(), "source.example"), "is not believed: unable to get local issuer certificate"),
    ],
    ids=["none", "another authority's"],
)
def test_who_must_show_a_certificate_and_has_none_that_is_believed_is_told_so(
    ports: Ports, caplog: pytest.LogCaptureFixture, own: TlsIdentity, said: str
) -> None:
    caplog.set_level("INFO")
    port = ports(tls=showing(AUTHORITY, "127.0.0.1", is_mutual=True))
    context = tls.dialling_context(replace(own, authority=BELIEVED))
    link = Link(tcp.dial(port.address, timeout_s=10, tls=context), Role.CONNECTOR)
    try:
        with pytest.raises(ConnectionEnded, match=r"TLS connection to .* broke") as caught:
            link.greet(Hello(Role.CONNECTOR, stream="images"), within_s=10)
    finally:
        link.close()
    assert "tls.certificate and tls.key" in caught.value.hint
    wait_until(lambda: said in caplog.text and port.connections == 0, what="the listener's log to say it, too")
