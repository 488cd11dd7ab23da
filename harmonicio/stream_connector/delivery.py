"""What the source application holds of a message that it has sent.

      WAITING ──► IN_FLIGHT ──► DONE
         ▲            │  └────► REJECTED          for good: too large, or another message has the id
         │            ▼
         └──── (again elsewhere) ──► STORED ──► DONE, FAILED or EXPIRED    the master has it

A message is safe in STORED and in every state after it. How a stored message ends is known only to who asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from harmonicio.core.errors import DeliveryError, HandlerFailed, MessageRejected, OutcomeExpired
from harmonicio.core.message import Outcome, OutcomeKind, Value

if TYPE_CHECKING:
    from harmonicio.stream_connector.connector import StreamConnector


class DeliveryState(StrEnum):
    WAITING = "waiting"
    IN_FLIGHT = "in_flight"
    STORED = "stored"
    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        return self in _FINAL


_FINAL = (DeliveryState.DONE, DeliveryState.FAILED, DeliveryState.REJECTED, DeliveryState.EXPIRED)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a connector has done so far. Messages, except where the name says bytes."""

    sent: int
    safe: int
    processed: int
    failed: int
    via_engine: int
    via_backlog: int
    resent: int
    waiting: int
    waiting_bytes: int
    engines: int
    lease_requests: int


class Delivery:
    """One message on its way.

    Attributes:
        message_id: Its id, unique in the stream.
        size_bytes: Length of the payload.
        state: See the drawing above.
        route: ``engine`` or ``backlog``, whichever answered last; empty before.
    """

    __slots__ = ("_connector", "_outcome", "is_awaited", "message_id", "released", "route", "size_bytes", "state")

    def __init__(self, connector: StreamConnector, message_id: str, size_bytes: int) -> None:
        self._connector = connector
        self._outcome: Outcome | None = None
        self.message_id = message_id
        self.size_bytes = size_bytes
        self.state = DeliveryState.WAITING
        self.route = ""
        #: Whether the connector has let go of the payload's buffer.
        self.released = False
        #: Whether somebody has asked for the result, and so will hear of a failure.
        self.is_awaited = False

    def __repr__(self) -> str:
        return f"<Delivery {self.message_id!r} {self.state}{f' via {self.route}' if self.route else ''}>"

    @property
    def is_safe(self) -> bool:
        """Whether an engine has processed it or the master has stored it."""
        return self.state not in (DeliveryState.WAITING, DeliveryState.IN_FLIGHT, DeliveryState.REJECTED)

    @property
    def is_done(self) -> bool:
        """Whether its final outcome is known."""
        return self.state.is_final

    def result(self, timeout_s: float | None = None) -> Value:
        """Wait for the final outcome and return what the handler returned.

        Raises:
            HandlerFailed: the handler raised, and the message was given up.
            MessageRejected: no receiver can take it.
            OutcomeExpired: the master does not know the outcome any more.
            OutcomeTimeout: it did not arrive within ``timeout_s`` seconds.
        """
        self.is_awaited = True
        self._connector._wait_for_result(self, timeout_s)
        error = self.error()
        if error is not None:
            raise error
        return None if self._outcome is None else self._outcome.result

    def error(self) -> DeliveryError | None:
        """Return why there is no result; None while the message is on its way, or when there is one."""
        outcome = self._outcome
        if self.state is DeliveryState.EXPIRED:
            return OutcomeExpired(
                f"The master does not know any more what became of message {self.message_id!r}.",
                hint="Outcomes are kept for an hour.",
            )
        if self.state is DeliveryState.FAILED and outcome is not None and outcome.failure is not None:
            failure = outcome.failure
            text = f"The handler failed for message {self.message_id!r}: {failure.error_type}: {failure.text}"
            return HandlerFailed(text, error_type=failure.error_type, traceback=failure.traceback)
        if self.state is DeliveryState.REJECTED and outcome is not None:
            reason = str(outcome.reason)
            return MessageRejected(f"Message {self.message_id!r} was rejected: {outcome.text or reason}", reason=reason)
        return None

    def settle(self, state: DeliveryState, outcome: Outcome | None) -> None:
        """Take a new state; for the connector."""
        self.state = state
        self._outcome = outcome


def state_after(outcome: Outcome | None) -> DeliveryState:
    """Return the final state that an outcome stands for; None means that nobody knows."""
    if outcome is None:
        return DeliveryState.EXPIRED
    if outcome.kind is OutcomeKind.DONE:
        return DeliveryState.DONE
    return DeliveryState.FAILED if outcome.kind is OutcomeKind.FAILED else DeliveryState.REJECTED
