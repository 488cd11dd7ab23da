"""A source application: the real :class:`~harmonicio.stream_connector.StreamConnector`, fed with what is planned.

What the source is told is noted at the moment when its delivery changes, so that a source that is killed a moment later
was told all the same. A source that is started again sends what it does not know to be safe, under the same ids; some
send everything again.
"""

from __future__ import annotations

from typing import Any

from harmonicio.core.errors import DeliveryError, HarmonicIOError, MessageRejected
from harmonicio.stream_connector import StreamConnector
from harmonicio.stream_connector.delivery import Delivery
from simulation.effects import digest_of
from simulation.loop import Host, Process, check_alive, current, sleep
from simulation.rest import Client
from simulation.schedule import Planned


class Source:
    """One source application on its host.

    Attributes:
        is_done: Everything planned was sent, its ends are known as far as they are awaited, the connector is closed.
        undelivered: Ids that its last connector gave up when it was closed.
    """

    def __init__(self, world: Any, host: Host, number: int, messages: list[Planned], master_url: str) -> None:
        self._world = world
        self.host = host
        self.name = host.name
        self._number = number
        self._messages = messages
        self._master_url = master_url
        self.process: Process | None = None
        self.connector: StreamConnector | None = None
        self.starts = 0
        self.is_done = False
        self.is_told_to_end = False
        self.undelivered: tuple[str, ...] = ()
        #: Ids that it knows to be at rest: safe, or rejected for good.
        self.at_rest: dict[str, None] = {}
        self.sends_all_again = number % 2 == 0

    @property
    def is_running(self) -> bool:
        return self.process is not None and not self.process.is_dead

    def start(self) -> None:
        self.starts += 1
        self.process = Process(f"{self.name}.{self.starts}", self.host)
        self.process.spawn("main", self._main)

    def _main(self) -> None:
        world = self._world
        connector = StreamConnector(
            self._messages[0].stream if self._messages else "plates",
            client=Client(self._master_url),
            byte_budget_bytes=world.plan.connector_bytes,
        )
        self.connector = connector
        for planned in self._messages:
            sleep(planned.at_s - world.loop.now)
            if planned.name in self.at_rest and not self.sends_all_again:
                continue
            if planned.source != self._number:
                self._send(connector, planned, planned.payload + b"another's", is_other=True)
                continue
            self._send(connector, planned, planned.payload)
            if planned.again == "same":
                self._send(connector, planned, planned.payload)
            elif planned.again == "other":
                self._send(connector, planned, planned.payload + b"other", is_other=True)
        self._await(connector)
        try:
            connector.close(timeout_s=world.CLOSE_WITHIN_S)
        except DeliveryError as error:
            self.undelivered = tuple(getattr(error, "message_ids", ()))
        self.is_done = True
        current().process.die(0)

    def _send(self, connector: StreamConnector, planned: Planned, payload: bytes, *, is_other: bool = False) -> None:
        self._world.offers(planned, digest_of(payload), is_other=is_other)
        while True:
            check_alive()
            try:
                connector.send(
                    payload, metadata={"of": planned.name}, priority=planned.priority, message_id=planned.name
                )
                return
            except MessageRejected:
                assert is_other, "the connector refuses an id only for its other bytes"
                return
            except (
                HarmonicIOError
            ):  # The stream is not declared yet, or the master cannot be reached for the first time.
                sleep(0.5)

    def _await(self, connector: StreamConnector) -> None:
        """Wait for the end of what was sent; failures are what was planned."""
        level = "processed" if self._world.plan.awaits_results else "safe"
        while True:
            check_alive()
            try:
                connector.flush(level, timeout_s=self._world.FLUSH_WITHIN_S)
                return
            except DeliveryError as error:
                if type(error).__name__ == "OutcomeTimeout" and self.is_told_to_end:
                    return
            except HarmonicIOError:
                sleep(0.5)

    def told(self, delivery: Delivery) -> None:
        """A delivery of its connector has a new state."""
        if delivery.is_safe or delivery.is_final:
            self.at_rest[delivery.message_id] = None
