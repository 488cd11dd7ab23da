"""Peers of an engine, reduced to what the wire needs: a source that sends, a master that pushes, a controller.

They speak the real protocol over real sockets and leave out every policy, so that a test decides what is sent when.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harmonicio.control import tickets
from harmonicio.control.engine_channel import ControllerChannel, ControlListener
from harmonicio.control.engine_messages import EngineConfiguration, EngineOrder
from harmonicio.control.messages import EngineReport
from harmonicio.core.errors import ConnectionEnded, HarmonicIOError
from harmonicio.core.lease import Address, Claims, TicketKind
from harmonicio.core.message import MessageIds, Outcome
from harmonicio.core.stream import StreamDeclaration
from harmonicio.transport import tcp
from harmonicio.transport.data_port import DataPort
from harmonicio.transport.link import Link
from harmonicio.wire import checksum
from harmonicio.wire.connection import message_prefix
from harmonicio.wire.credit import SenderCredit
from harmonicio.wire.events import Credit, Drain, Event, Goodbye, Hello, OutcomesReceived, Role
from harmonicio.wire.sections import depth_frame

BATCH_BYTES = 64 * 1024


class Sender:
    """The sending end of a data connection: counts credit, keeps outcomes by the message's number."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.credit = SenderCredit()
        self.outcomes: dict[int, Outcome] = {}
        self.drain: Drain | None = None
        self.goodbye: Goodbye | None = None
        self.credit_frames = self.outcome_frames = 0
        self._ids = MessageIds()

    def __repr__(self) -> str:
        return f"<Sender to {self.link.channel.peer}: {self.credit!r}>"

    def take(self, event: Event) -> None:
        """Act on what the engine says."""
        if isinstance(event, Credit):
            self.credit.granted(event.messages, event.bytes)
            self.credit_frames += 1
        elif isinstance(event, OutcomesReceived):
            self.outcome_frames += 1
            for answered in event.ranges:
                self.credit.outcomes_received(answered.first, answered.last)
                for number in range(answered.first, answered.last + 1):
                    assert number not in self.outcomes, f"message {number} is answered twice"
                    self.outcomes[number] = answered.outcome
        elif isinstance(event, Drain):
            self.drain = event
        elif isinstance(event, Goodbye):
            self.goodbye = event

    def prefix(self, size_bytes: int, **fields: Any) -> bytes:
        """Count one message as sent and return the bytes before its payload."""
        self.credit.message_sent(size_bytes)
        return message_prefix(fields.pop("message_id", None) or self._ids.draw(), size_bytes, **fields)


class BareConnector(Sender):
    """A source application's end, driven by the calling thread."""

    def __init__(self, address: Address, ticket: str, stream: str, source: str = "source") -> None:
        super().__init__(Link(tcp.dial(address, timeout_s=5.0), Role.CONNECTOR))
        try:
            hello = Hello(Role.CONNECTOR, stream=stream, ticket=ticket, source=source, checksums=checksum.SUPPORTED)
            self.welcome = self.link.greet(hello)
        except HarmonicIOError:
            self.link.close()
            raise

    def __enter__(self) -> BareConnector:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()

    def send(
        self, payload: bytes | memoryview = b"", *, trailer: bytes = b"", timeout_s: float = 30.0, **fields: Any
    ) -> int:
        """Send one message when there is credit for it; return its number."""
        self.wait(lambda: self.credit.can_send(len(payload)), timeout_s)
        return self.send_anyway(payload, trailer=trailer, **fields)

    def send_anyway(self, payload: bytes | memoryview = b"", *, trailer: bytes = b"", **fields: Any) -> int:
        """Send one message without looking at the credit; return its number."""
        number = self.credit.sent
        self.link.send(self.prefix(len(payload), **fields), payload, trailer)
        return number

    def send_many(self, payload: bytes, count: int, timeout_s: float = 60.0) -> int:
        """Send the same payload many times, in batches, as fast as there is credit, until the engine drains.

        Returns:
            How many were sent.
        """
        left, at_once = count, max(1, BATCH_BYTES // max(1, len(payload)))
        while left:
            self.wait(lambda: self.drain is not None or self.credit.can_send(len(payload)), timeout_s)
            if self.drain is not None:
                break
            buffers: list[bytes] = []
            while left and len(buffers) < 2 * at_once and self.credit.can_send(len(payload)):
                buffers += (self.prefix(len(payload)), payload)
                left -= 1
            self.link.send(*buffers)
        return count - left

    def wait_for_outcomes(self, count: int, timeout_s: float = 60.0) -> dict[int, Outcome]:
        """Wait until so many messages have been answered; return the outcomes by number."""
        self.wait(lambda: len(self.outcomes) >= count, timeout_s)
        return self.outcomes

    def outcome(self, number: int, timeout_s: float = 30.0) -> Outcome:
        self.wait(lambda: number in self.outcomes, timeout_s)
        return self.outcomes[number]

    def wait(self, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        """Read until the condition holds.

        Raises:
            TimeoutError: it does not, in that time.
            ConnectionEnded: the engine ended the connection before.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            event = self.link.next_event()
            if event is not None:
                self.take(event)
            elif self.goodbye is not None:
                raise ConnectionEnded(f"The engine said goodbye: {self.goodbye.code} {self.goodbye.text}")
            elif not self.link.read() and time.monotonic() > deadline:
                raise TimeoutError(f"Waited {timeout_s:g} s; {self!r}, {len(self.outcomes)} outcomes")


class BareMaster:
    """The master's data port for one engine: :meth:`push` puts a message into its backlog."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[bytes, dict[str, Any]]] = deque()
        self._sender: Sender | None = None
        self._said_depth = 0
        self.hellos: list[Hello] = []
        self.outcomes: list[Outcome] = []
        self._port = DataPort("127.0.0.1", 0, self._receive, name="bare-master")
        self._port.start()

    @property
    def address(self) -> Address:
        return self._port.address

    @property
    def is_connected(self) -> bool:
        return self._sender is not None

    @property
    def credit(self) -> SenderCredit:
        assert self._sender is not None
        return self._sender.credit

    @property
    def outcome_frames(self) -> int:
        return 0 if self._sender is None else self._sender.outcome_frames

    @property
    def drain(self) -> Drain | None:
        return None if self._sender is None else self._sender.drain

    def push(self, payload: bytes = b"", **fields: Any) -> None:
        """Give a message to the engine as soon as it has credit."""
        with self._lock:
            self._waiting.append((payload, fields))
            self._send()

    def break_connection(self) -> None:
        """Cut the engine's connection, as a network would."""
        with self._lock:
            assert self._sender is not None
            self._sender.link.channel.shutdown()
            self._sender = None  # so that `is_connected` speaks of the next connection

    def close(self) -> None:
        self._port.close()

    def _send(self) -> None:
        sender = self._sender
        if sender is None:
            return
        while self._waiting and sender.credit.can_send(len(self._waiting[0][0])):
            payload, fields = self._waiting.popleft()
            sender.link.send(sender.prefix(len(payload), **fields), payload)
        if bool(self._waiting) != bool(self._said_depth):
            self._said_depth = len(self._waiting)
            sender.link.send(depth_frame(self._said_depth))

    def _receive(self, link: Link, hello: Hello) -> tuple[Hello, _MasterSession]:
        self.hellos.append(hello)
        return Hello(Role.MASTER, stream=hello.stream), _MasterSession(self, link)

    def opened(self, sender: Sender) -> None:
        with self._lock:
            self._sender, self._said_depth = sender, 0
            self._send()

    def said(self, sender: Sender, event: Event) -> None:
        with self._lock:
            known = len(sender.outcomes)
            sender.take(event)
            self.outcomes += list(sender.outcomes.values())[known:]
            self._send()

    def gone(self, sender: Sender) -> None:
        with self._lock:
            if self._sender is sender:
                self._sender = None


class _MasterSession:
    def __init__(self, master: BareMaster, link: Link) -> None:
        self._master = master
        self._sender = Sender(link)

    def opened(self) -> None:
        self._master.opened(self._sender)

    def handle(self, event: Event) -> None:
        self._master.said(self._sender, event)

    def pause(self) -> None:
        """Everything is sent at once."""

    def closed(self, error: HarmonicIOError | None) -> None:
        self._master.gone(self._sender)


class BareController:
    """The controller's socket for one engine: keeps its reports, gives orders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reports: list[EngineReport] = []
        self._listener = ControlListener(path)
        self._channel: ControllerChannel | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bare-controller", daemon=True)
        self._thread.start()

    @property
    def last(self) -> EngineReport | None:
        return self.reports[-1] if self.reports else None

    @property
    def states(self) -> list[str]:
        """The states reported so far, each once per change."""
        states = [str(report.state) for report in self.reports]
        return [state for at, state in enumerate(states) if at == 0 or states[at - 1] != state]

    def order(self, order: EngineOrder) -> None:
        with self._lock:
            assert self._channel is not None
            self._channel.send_order(order)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        with self._lock:
            if self._channel is not None:
                self._channel.close()
        self._listener.close()

    def _run(self) -> None:
        while not self._closing.wait(0.005):
            with self._lock:
                if (dialled := self._listener.accept()) is not None:
                    if self._channel is not None:
                        self._channel.close()
                    self._channel = dialled
                if self._channel is None:
                    continue
                try:
                    self.reports += self._channel.receive_reports()
                except ConnectionEnded:
                    self._channel.close()
                    self._channel = None


def configuration_of(
    folder: Path,
    declaration: StreamDeclaration,
    *,
    master_data: Address,
    payload_budget_bytes: int = 256 * 1024**2,
    orphan_after_s: float = 60.0,
) -> EngineConfiguration:
    """Return the configuration of an engine called ``e1`` whose files are in ``folder``."""
    key = tickets.new_key()
    claims = Claims(TicketKind.ENGINE, declaration.name, 3600.0, time.time(), 1, engine="e1")
    return EngineConfiguration(
        engine="e1",
        worker="w1",
        declaration=declaration,
        key=key,
        ticket=tickets.sign(key, claims),
        master_url="http://127.0.0.1:9",
        master_data=master_data,
        control_socket=str(folder / "control.sock"),
        listen_host="127.0.0.1",
        scratch_folder=str(folder / "scratch"),
        payload_budget_bytes=payload_budget_bytes,
        orphan_after_s=orphan_after_s,
    )


def lease_ticket(
    configuration: EngineConfiguration,
    *,
    source: str = "source",
    lease: str = "l1",
    term_s: float = 60.0,
    epoch: int = 1,
) -> str:
    """Return the ticket of a lease on this engine, as the master would sign it."""
    claims = Claims(
        TicketKind.LEASE,
        configuration.declaration.name,
        term_s,
        time.time(),
        epoch,
        lease=lease,
        engine=configuration.engine,
        source=source,
    )
    return tickets.sign(configuration.key, claims)
