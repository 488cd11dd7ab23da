"""An engine in this process, with a bare connector, a bare master and a bare controller over real sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

from harmonicio.control.engine_messages import EngineConfiguration
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.engine.daemon import Daemon
from harmonicio.testing.bare_peers import BareConnector, BareController, BareMaster, configuration_of, lease_ticket
from harmonicio.testing.waiting import wait_until

MIB = 1024**2

NOOP = """
    @handler
    def noop(message): return None
"""
ECHO = """
    import hashlib
    @handler
    def echo(message):
        digest = hashlib.sha256(message.payload).hexdigest()
        return {"id": message.id, "metadata": message.metadata, "attempt": message.attempt, "digest": digest}
"""
#: Reads, on demand, how many handlers run, and holds them until the test lets go.
GATE = """
    import threading
    gate = threading.Event()
    lock = threading.Lock()
    running, order, most = 0, [], 0
    @handler
    def wait(message):
        global running, most
        with lock:
            running += 1
            most = max(most, running)
            order.append(message.metadata.get("name"))
        gate.wait(30)
        with lock:
            running -= 1
"""


@dataclass
class Bench:
    """One engine and its peers."""

    daemon: Daemon
    configuration: EngineConfiguration
    master: BareMaster
    controller: BareController
    exits: ExitStack

    def connector(
        self, source: str = "source", lease: str = "l1", term_s: float = 60.0, epoch: int = 1
    ) -> BareConnector:
        address = self.daemon.address
        assert address is not None
        ticket = lease_ticket(self.configuration, source=source, lease=lease, term_s=term_s, epoch=epoch)
        return self.exits.enter_context(BareConnector(address, ticket, self.configuration.declaration.name, source))

    @property
    def module(self) -> Any:
        """The handler's module, to look into."""
        import sys

        return sys.modules["_handler_mine"]


Start = Callable[..., Bench]


def reason_of(outcome: Outcome) -> RejectReason | None:
    assert outcome.kind is OutcomeKind.REJECTED
    return outcome.reason


@contextmanager
def engine_benches(folder: Path) -> Iterator[Start]:
    """Give a function that starts an engine with the given handler code and fields of its stream."""
    with ExitStack() as exits:

        def start_engine(code: str = NOOP, *, budget_bytes: int = 256 * MIB, **fields: Any) -> Bench:
            path = folder / "mine.py"
            path.write_text("from harmonicio.engine import handler\n" + dedent(code))
            master, controller = BareMaster(), BareController(folder / "control.sock")
            exits.callback(master.close)
            exits.callback(controller.close)
            declaration = StreamDeclaration("cells", handler=str(path), **fields)
            configuration = configuration_of(
                folder, declaration, master_data=master.address, payload_budget_bytes=budget_bytes
            )
            daemon = Daemon(configuration, str(path))
            exits.callback(daemon.close)
            daemon.start()
            wait_until(lambda: master.is_connected, what="the backlog connection")
            return Bench(daemon, configuration, master, controller, exits)

        yield start_engine
