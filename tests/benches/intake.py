"""A connector and an engine that tests play against the master's data port, over real sockets."""

from __future__ import annotations

from harmonicio.core.message import Outcome
from harmonicio.master.intake import Intake
from harmonicio.testing.arrivals import one_by_one
from harmonicio.testing.waiting import wait_until
from harmonicio.transport import tcp
from harmonicio.transport.link import Link
from harmonicio.wire.events import (
    Event,
    Hello,
    IncomingMessage,
    MessageBegun,
    OutcomesReceived,
    Role,
)
from harmonicio.wire.frames import VERSION


class Peer:
    """A dialled link that collects events, and messages one by one, until a test has seen what it waits for."""

    def __init__(self, intake: Intake, hello: Hello) -> None:
        self.link = Link(tcp.dial(intake.address, timeout_s=5), hello.role)
        self.answer = self.link.greet(hello)
        self.seen: list[Event | IncomingMessage] = []

    def wait_for(self, kind: type, count: int = 1) -> list[Event | IncomingMessage]:
        def is_there() -> bool:
            self._read()
            return sum(isinstance(event, kind) for event in self.seen) >= count

        wait_until(is_there, 20, what=f"{count} {kind.__name__}")
        return [event for event in self.seen if isinstance(event, kind)]

    def outcomes(self, count: int) -> dict[int, Outcome]:
        known: dict[int, Outcome] = {}

        def are_there() -> bool:
            self._read()
            for event in self.seen:
                if isinstance(event, OutcomesReceived):
                    for each in event.ranges:
                        known.update(dict.fromkeys(range(each.first, each.last + 1), each.outcome))
            return len(known) >= count

        wait_until(are_there, 20, what=f"{count} outcomes")
        return known

    def _read(self) -> None:
        while (event := self.link.next_event()) is not None:
            if isinstance(event, MessageBegun):
                self.link.receive_payload(memoryview(bytearray(event.message.size_bytes)))
            else:
                self.seen += one_by_one(event)
        self.link.read()

    def close(self) -> None:
        self.link.close()


def connector(intake: Intake) -> Peer:
    hello = Hello(Role.CONNECTOR, stream="images", ticket="good", source="microscope", versions=(VERSION,))
    return Peer(intake, hello)


def engine(intake: Intake, name: str = "e-1", checksums: tuple[str, ...] = ()) -> Peer:
    hello = Hello(
        Role.ENGINE, stream="images", ticket="any", engine=name, worker="w", checksums=checksums, versions=(VERSION,)
    )
    return Peer(intake, hello)
