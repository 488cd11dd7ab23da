"""The data port: idle connections cost no thread, bad ones end alone, and closing leaves nothing."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

import pytest

from benches.data_port import EchoSession, Ports, Receptionist, pool_threads
from harmonicio.core.errors import ConnectionEnded
from harmonicio.testing.channel_suite import next_event
from harmonicio.testing.waiting import wait_until
from harmonicio.transport import data_port as data_port_module
from harmonicio.transport.data_port import MAX_THREADS, DataPort
from harmonicio.transport.link import Link
from harmonicio.wire.connection import message_prefix
from harmonicio.wire.decoder import SMALLEST_KEPT_BYTES
from harmonicio.wire.events import (
    Event,
    OutcomeRange,
    OutcomesReceived,
)
from harmonicio.wire.frames import MAX_INLINE_BYTES

# ── the ordinary life ────────────────────────────────────────────────────────────────────────────────────────────────


def test_messages_are_served_and_answered(
    ports: Ports, dialled: Callable[..., Link], receptionist: Receptionist
) -> None:
    port = ports()
    link = dialled(port.address)
    link.send(
        message_prefix("small", 3), b"abc", message_prefix("large", MAX_INLINE_BYTES + 1), bytes(MAX_INLINE_BYTES + 1)
    )
    ranges: list[OutcomeRange] = []
    while len(ranges) < 2:
        event = next_event(link)
        assert isinstance(event, OutcomesReceived)
        ranges += event.ranges
    assert [item.outcome.result for item in ranges] == [3, MAX_INLINE_BYTES + 1]
    assert receptionist.opened == port.connections == 1
    assert port.received_bytes > MAX_INLINE_BYTES


def test_a_session_does_not_pause_while_more_is_here(
    ports: Ports, dialled: Callable[..., Link], receptionist: Receptionist, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_sent, handle = threading.Event(), EchoSession.handle

    def handle_late(session: EchoSession, event: Event) -> None:
        assert all_sent.wait(10)
        handle(session, event)

    monkeypatch.setattr(EchoSession, "handle", handle_late)
    link = dialled(ports().address)
    with socket.socket(fileno=os.dup(link.channel.fileno())) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)  # So that it holds what is not read yet.
    link.send(*[message_prefix("small", 10_000) + bytes(10_000)] * 20)
    all_sent.set()
    answered = 0
    while answered < 20:
        event = next_event(link)
        assert isinstance(event, OutcomesReceived)
        answered += len(event.ranges)
    (session,) = receptionist.sessions
    assert session.pauses <= 3, "before the first one, behind the last one, and while that was on its way"


def test_idle_connections_take_no_threads_and_little_memory(
    ports: Ports, dialled: Callable[..., Link], receptionist: Receptionist
) -> None:
    port = ports()
    links = [dialled(port.address) for _ in range(200)]
    assert port.connections == 200
    assert len(pool_threads()) <= MAX_THREADS + 1
    for link in links:
        link.send(message_prefix("00" * 16, 60_000), bytes(60_000))
    for link in links:
        assert isinstance(next_event(link), OutcomesReceived)
    wait_until(
        lambda: all(one.link.connection.kept_bytes == SMALLEST_KEPT_BYTES for one in receptionist.sessions),
        what="receive buffers to shrink",
    )


def test_more_busy_connections_than_threads_are_all_served(
    ports: Ports, dialled: Callable[..., Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_port_module, "MAX_THREADS", 2)
    port = ports()
    stop = threading.Event()

    def keep_busy(link: Link) -> None:
        while not stop.is_set():
            link.send(message_prefix("00" * 16, 10), bytes(10))
            next_event(link)

    busy = [threading.Thread(target=keep_busy, args=(dialled(port.address),)) for _ in range(4)]
    for thread in busy:
        thread.start()
    try:
        late = dialled(port.address)
        for _ in range(20):
            late.send(message_prefix("00" * 16, 10), bytes(10))
            assert isinstance(next_event(late, within_s=5), OutcomesReceived)
    finally:
        stop.set()
        for thread in busy:
            thread.join()


def test_closing_leaves_no_thread_and_no_file(ports: Ports, dialled: Callable[..., Link]) -> None:
    port = ports()
    links = [dialled(port.address) for _ in range(20)]
    port.close()
    port.close()
    assert pool_threads() == []
    assert port.connections == 0
    for link in links:
        with pytest.raises(ConnectionEnded):
            next_event(link)


def test_closing_ends_a_connection_that_is_in_the_middle_of_a_payload(
    ports: Ports, dialled: Callable[..., Link], receptionist: Receptionist
) -> None:
    port = ports()
    link = dialled(port.address)
    link.send(message_prefix("large", 10**8), bytes(10**6))
    wait_until(lambda: port.received_bytes > 0)
    began = time.monotonic()
    port.close()
    assert time.monotonic() - began < 5
    assert len(receptionist.sessions[0].ended_by) == 1


def test_a_port_that_was_never_started_can_be_closed(receptionist: Receptionist) -> None:
    DataPort("127.0.0.1", 0, receptionist, name="test").close()


def test_a_port_that_stops_listening_keeps_what_is_open(ports: Ports, dialled: Callable[..., Link]) -> None:
    port = ports()
    link = dialled(port.address)
    port.stop_listening()
    with pytest.raises(ConnectionEnded):
        dialled(port.address)
    link.send(message_prefix("small", 3), b"abc")
    assert isinstance(next_event(link), OutcomesReceived)
