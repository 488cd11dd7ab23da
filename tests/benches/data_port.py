"""Sessions of a data port that answer what they get, and what is seen of the port from outside."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from harmonicio.core.errors import HarmonicIOError, NotAllowed
from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.testing.arrivals import one_by_one
from harmonicio.transport.data_port import DataPort
from harmonicio.transport.link import Link
from harmonicio.wire.events import (
    Depth,
    Drain,
    Event,
    Hello,
    IncomingMessage,
    MessageBegun,
    Role,
)
from harmonicio.wire.outcomes import OutcomeBatch

Ports = Callable[..., DataPort]


class EchoSession:
    """Answers each message with ``done`` and its size; a DRAIN is answered with GOODBYE, DEPTH 13 with a bug."""

    def __init__(self, port: Receptionist, link: Link) -> None:
        self._port = port
        self.link = link
        self._outcomes = OutcomeBatch()
        self.ended_by: list[HarmonicIOError | None] = []
        self.pauses = 0

    def opened(self) -> None:
        self._port.opened += 1

    def handle(self, event: Event) -> None:
        for each in one_by_one(event):
            self._handle(each)

    def _handle(self, event: Event | IncomingMessage) -> None:
        if isinstance(event, MessageBegun):
            self.link.receive_payload(memoryview(bytearray(event.message.size_bytes)))
        elif isinstance(event, IncomingMessage):
            self._outcomes.add(event.sequence, Outcome(OutcomeKind.DONE, result=event.size_bytes))
        elif isinstance(event, Drain):
            self.link.say_goodbye("draining", "As you wish.")
        elif event == Depth(13):
            raise ZeroDivisionError("a bug in a session")

    def pause(self) -> None:
        self.pauses += 1
        if self._outcomes:
            self.link.send(self._outcomes.take_frame())

    def closed(self, error: HarmonicIOError | None) -> None:
        self.ended_by.append(error)


class Receptionist:
    """Takes everybody but the stream ``forbidden``."""

    def __init__(self) -> None:
        self.opened = 0
        self.sessions: list[EchoSession] = []

    def __call__(self, link: Link, hello: Hello) -> tuple[Hello, EchoSession]:
        if hello.stream == "forbidden":
            raise NotAllowed("This ticket is not for you.", hint="Ask for your own.")
        self.sessions.append(EchoSession(self, link))
        return Hello(Role.ENGINE), self.sessions[-1]


def pool_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("test-")]


def last_words(sock: socket.socket) -> bytes:
    """Everything that the port says until it closes the connection."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            said += piece
    return said
