"""What a data port makes of peers that break the protocol, fall silent or vanish, and of sessions with a bug."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from benches.data_port import EchoSession, Ports, Receptionist, last_words
from harmonicio.core.errors import ConnectionEnded, HarmonicIOError, NotAllowed
from harmonicio.core.lease import Address
from harmonicio.testing.channel_suite import next_event
from harmonicio.testing.waiting import wait_until
from harmonicio.transport import tcp
from harmonicio.transport.link import Link
from harmonicio.wire.connection import HANDSHAKE_LIMIT_BYTES, message_prefix
from harmonicio.wire.events import (
    Event,
    Goodbye,
    Hello,
    MessageBegun,
    OutcomesReceived,
    Role,
)
from harmonicio.wire.frames import FIXED, MAX_HEADER_BYTES
from harmonicio.wire.sections import depth_frame, drain_frame

# ── bad peers, and bad sessions ──────────────────────────────────────────────────────────────────────────────────────


def test_a_session_that_raises_ends_only_its_own_connection(
    ports: Ports, dialled: Callable[..., Link], receptionist: Receptionist, caplog: pytest.LogCaptureFixture
) -> None:
    port = ports()
    bad, good = dialled(port.address), dialled(port.address)
    bad.send(depth_frame(13))
    goodbye = next_event(bad)
    assert isinstance(goodbye, Goodbye)
    assert "internal error" in goodbye.text and "ZeroDivisionError" not in goodbye.text
    good.send(message_prefix("small", 3), b"abc")
    assert isinstance(next_event(good), OutcomesReceived)
    wait_until(lambda: receptionist.sessions[0].ended_by)
    assert receptionist.sessions[1].ended_by == []
    assert "a bug in a session" in caplog.text


def test_a_session_that_cannot_even_close_is_given_back(
    ports: Ports, dialled: Callable[..., Link], receptionist: Receptionist, caplog: pytest.LogCaptureFixture
) -> None:
    port = ports()
    link = dialled(port.address)

    def closed(error: HarmonicIOError | None) -> None:
        raise KeyError("lost")

    receptionist.sessions[0].closed = closed  # type: ignore[method-assign]
    link.close()
    wait_until(lambda: port.connections == 0)
    assert "did not end in order" in caplog.text


def test_a_refused_peer_hears_why(ports: Ports, dialled: Callable[..., Link]) -> None:
    with pytest.raises(NotAllowed, match="This ticket is not for you") as caught:
        dialled(ports().address, stream="forbidden")
    assert caught.value.hint == "Ask for your own."


def test_goodbye_of_a_session_reaches_a_peer_that_is_still_sending(ports: Ports, dialled: Callable[..., Link]) -> None:
    link = dialled(ports().address)
    link.send(drain_frame(1.0), *[message_prefix("00" * 16, 60_000) + bytes(60_000) for _ in range(100)])
    assert next_event(link) == Goodbye("draining", "As you wish.")


def test_a_broken_rule_is_answered_with_its_name(ports: Ports, dialled: Callable[..., Link]) -> None:
    link = dialled(ports().address)
    link.send(b"garbage" * 100_000)
    goodbye = next_event(link)
    assert isinstance(goodbye, Goodbye)
    assert goodbye.code == "protocol" and "do not start a frame" in goodbye.text


@pytest.mark.parametrize(
    "bytes_of_others",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        bytes.fromhex("1603010200010001fc0303") + os.urandom(500),
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0" * 100,
        FIXED.pack(b"HI", 1, 1, 0, 0, 0, MAX_HEADER_BYTES, 0, 0, 0, bytes(16)) + bytes(MAX_HEADER_BYTES),
        FIXED.pack(b"HI", 1, 4, 0, 0, 0, 0, 0, 0, 2**40, bytes(16)) + bytes(10**6),
    ],
    ids=["HTTP", "TLS", "SSH", "zeros", "long HELLO", "MESSAGE"],
)
def test_other_protocols_are_refused_early(
    ports: Ports, raw: Callable[[Address], socket.socket], bytes_of_others: bytes
) -> None:
    port = ports()
    sock = raw(port.address)
    with contextlib.suppress(ConnectionError):
        sock.sendall(bytes_of_others)
    assert b"protocol" in last_words(sock)
    wait_until(lambda: port.connections == 0)
    assert port.received_bytes <= HANDSHAKE_LIMIT_BYTES


def test_a_port_scan_leaves_nothing(ports: Ports, raw: Callable[[Address], socket.socket]) -> None:
    port = ports()
    for _ in range(50):
        raw(port.address).close()
    wait_until(lambda: port.connections == 0)


def test_who_connects_and_says_nothing_is_cut(ports: Ports, raw: Callable[[Address], socket.socket]) -> None:
    port = ports(greeting_within_s=0.2)
    silent = [raw(port.address) for _ in range(3)]
    slow = raw(port.address)
    slow.sendall(b"HI\x01\x01")
    assert [last_words(sock) for sock in [*silent, slow]] == [b""] * 4
    wait_until(lambda: port.connections == 0)


def test_who_was_greeted_in_time_is_not_cut(ports: Ports, dialled: Callable[..., Link]) -> None:
    port = ports(greeting_within_s=0.2)
    link = dialled(port.address)
    time.sleep(0.4)
    link.send(message_prefix("small", 3), b"abc")
    assert isinstance(next_event(link), OutcomesReceived)


def test_a_payload_that_stops_is_cut(ports: Ports, dialled: Callable[..., Link], receptionist: Receptionist) -> None:
    link = dialled(ports(slow_after_s=0.2).address)
    link.send(message_prefix("large", 10**6), bytes(1000))
    with pytest.raises(ConnectionEnded):
        next_event(link)
    (error,) = wait_until(lambda: receptionist.sessions[0].ended_by)
    assert "was cut" in str(error)


def test_a_small_message_that_never_ends_is_cut(
    ports: Ports, dialled: Callable[..., Link], receptionist: Receptionist
) -> None:
    link = dialled(ports(slow_after_s=0.2).address)
    link.send(message_prefix("scan-7", 60_000))

    def is_cut_while_it_trickles() -> bool:
        with contextlib.suppress(ConnectionEnded):
            link.send(b"x")
        return receptionist.sessions[0].ended_by != []

    wait_until(is_cut_while_it_trickles)


def test_a_connection_that_rests_between_messages_is_not_cut(ports: Ports, dialled: Callable[..., Link]) -> None:
    link = dialled(ports(slow_after_s=0.1).address)
    message = message_prefix("scan-7", 10)
    link.send(message)
    link.send(bytes(10))
    assert isinstance(next_event(link), OutcomesReceived)
    time.sleep(0.3)  # Three times as long as a frame may take: that nothing happens can only be seen by waiting.
    link.send(message_prefix("scan-8", 10), bytes(10))
    assert isinstance(next_event(link), OutcomesReceived)


def test_a_peer_that_vanishes_is_noticed(
    ports: Ports, dialled: Callable[..., Link], receptionist: Receptionist
) -> None:
    port = ports()
    link = dialled(port.address)
    with socket.socket(fileno=os.dup(link.channel.fileno())) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # Closing resets it.
    link.close()
    wait_until(lambda: port.connections == 0)
    assert isinstance(receptionist.sessions[0].ended_by[0], ConnectionEnded)


class WatchedBuffer(bytearray):
    """A buffer that a weak reference can point to."""


def test_what_a_peer_that_vanishes_has_begun_is_given_back_at_once(
    ports: Ports, dialled: Callable[..., Link], receptionist: Receptionist, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers: list[weakref.ref[WatchedBuffer]] = []

    def receive(session: EchoSession, event: Event) -> None:
        if isinstance(event, MessageBegun):
            buffer = WatchedBuffer(event.message.size_bytes)
            buffers.append(weakref.ref(buffer))
            session.link.receive_payload(memoryview(buffer))

    monkeypatch.setattr(EchoSession, "handle", receive)
    monkeypatch.setattr(EchoSession, "closed", lambda session, error: None)
    port = ports()
    link = dialled(port.address)
    gc.disable()
    try:
        link.send(message_prefix("large", 10**6), bytes(1000))
        wait_until(lambda: buffers)
        link.close()
        wait_until(lambda: port.connections == 0 and buffers[0]() is None)
        assert receptionist.sessions, "although somebody still has the session, and so the link"
    finally:
        gc.enable()


def test_connections_beyond_the_limit_are_closed_at_once(
    ports: Ports, dialled: Callable[..., Link], raw: Callable[[Address], socket.socket]
) -> None:
    port = ports(max_connections=2)
    links = [dialled(port.address) for _ in range(2)]
    assert last_words(raw(port.address)) == b""
    links[0].close()
    wait_until(lambda: port.connections == 1)
    assert dialled(port.address).is_open


def test_a_port_without_file_descriptors_waits_for_some(
    ports: Ports,
    dialled: Callable[..., Link],
    raw: Callable[[Address], socket.socket],
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = ports()
    link = dialled(port.address)
    sock = raw(port.address)  # Made now, because the limit holds for this side, too.
    wait_until(lambda: port.connections == 2)
    waiting = socket.socket()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    spare = []
    try:
        with contextlib.suppress(OSError):
            while True:
                spare.append(os.dup(0))
        waiting.connect((port.address.host, port.address.port))
        wait_until(lambda: "cannot be accepted" in caplog.text)
        link.send(message_prefix("small", 3), b"abc")
        assert isinstance(next_event(link), OutcomesReceived)
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in spare:
            os.close(descriptor)
    wait_until(lambda: port.connections == 3)
    waiting.close()
    sock.close()
    wait_until(lambda: port.connections == 1)


def test_a_port_goes_on_while_no_thread_can_be_started(
    ports: Ports, dialled: Callable[..., Link], raw: Callable[[Address], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = ports()

    def refuse(_: threading.Thread) -> None:
        refused.append(True)
        raise RuntimeError("can't start new thread")

    refused: list[bool] = []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        wait_until(lambda: raw(port.address).sendall(b"H") or refused, what="two to want a thread at once")
        link = dialled(port.address)
        link.send(message_prefix("small", 3), b"abc")
        assert isinstance(next_event(link), OutcomesReceived)


def test_connections_that_come_and_go_from_many_threads_leave_nothing(
    ports: Ports, dialled: Callable[..., Link]
) -> None:
    port = ports(greeting_within_s=0.05)

    def come_and_go() -> None:
        for turn in range(25):
            with contextlib.suppress(HarmonicIOError):
                link = Link(tcp.dial(port.address, timeout_s=5), Role.CONNECTOR)
                try:
                    if turn % 3:
                        link.greet(Hello(Role.CONNECTOR, stream="images"), within_s=5)
                        link.send(message_prefix("00" * 16, 10), bytes(10))
                    if turn % 2:
                        link.say_goodbye()
                finally:
                    link.close()

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: port.connections == 0)
    link = dialled(port.address)
    link.send(message_prefix("small", 3), b"abc")
    assert isinstance(next_event(link), OutcomesReceived)
