"""What the source application holds of a message that it has sent.

      WAITING ──► IN_FLIGHT ──► DONE
         ▲            │  └────► REJECTED          for good: too large, another message has the id, unreadable
         │            ▼
         └──── (again elsewhere) ──► STORED ──► DONE, FAILED or EXPIRED    the master has it

A message is safe in STORED and in every state after it. How a stored message ends is known only to who asks.

Pure: who waits for an outcome waits with the connector, behind :class:`Awaiting`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Protocol

from harmonicio.core.errors import DeliveryError, HandlerFailed, HarmonicIOError, MessageRejected, OutcomeExpired
from harmonicio.core.message import Outcome, OutcomeKind, Value
from harmonicio.core.printable import one_line

#: What to do about a message that no receiver can take.
HINTS = {
    "id_conflict": "An id stands for one content: give this message another id, or leave message_id= out.",
    "too_large": "Send it in parts, or declare the stream with a larger max_message_bytes.",
}


_HOLD = "Hold the delivery of a message until its result is there."


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
_WAITING, _UNSAFE = DeliveryState.WAITING, (DeliveryState.WAITING, DeliveryState.IN_FLIGHT, DeliveryState.REJECTED)


class Awaiting(Protocol):
    """Where a delivery's outcome arrives: the connector."""

    def await_outcome(self, delivery: Delivery, timeout_s: float | None) -> None:
        """Return when the delivery's outcome is final.

        Raises:
            OutcomeTimeout: it did not come in time.
        """
        ...


class Delivery:
    """One message on its way.

    Attributes:
        size_bytes: Length of the payload.
        state: See the drawing above.
        route: ``engine`` or ``backlog``, whichever answered last; empty before.
        released: Whether the connector has let go of the payload's buffer.
        is_awaited: Whether somebody has the result or waits for it, and so hears of a failure.
    """

    __slots__ = (
        "__weakref__",
        "_id",
        "_outcome",
        "_owner",
        "is_awaited",
        "released",
        "route",
        "size_bytes",
        "state",
    )

    def __init__(self, owner: Awaiting, message_id: str | bytes, size_bytes: int) -> None:
        self._owner = owner
        self._id = message_id
        self._outcome: Outcome | None = None
        self.size_bytes = size_bytes
        self.state = _WAITING
        self.route = ""
        self.released = False
        self.is_awaited = False

    def __repr__(self) -> str:
        return f"<Delivery {self.message_id!r} {self.state}{f' via {self.route}' if self.route else ''}>"

    @property
    def message_id(self) -> str:
        """Its id, unique in the stream."""
        return self._id if isinstance(self._id, str) else self._id.hex()

    @property
    def is_safe(self) -> bool:
        """Whether an engine has processed it or the master has stored it."""
        return self.state not in _UNSAFE

    @property
    def is_final(self) -> bool:
        """Whether its final outcome is known."""
        return self.state in _FINAL

    def result(self, timeout_s: float | None = None) -> Value:
        """Wait for the final outcome and return what the handler returned.

        Args:
            timeout_s: Seconds to wait at most; without it, as long as it takes.

        Raises:
            HandlerFailed: the handler raised, and the message was given up.
            MessageRejected: no receiver can take it.
            UndeliveredError: the connector was closed before it was safe.
            OutcomeExpired: the master does not know the outcome any more.
            OutcomeTimeout: it did not arrive in time.
        """
        self.is_awaited = True
        if self.state not in _FINAL:
            try:
                self._owner.await_outcome(self, timeout_s)
            except HarmonicIOError:
                if self.state not in _FINAL:  # Else the outcome came just then, and counts.
                    self.is_awaited = False  # Who gave up waiting does not hear of a failure that comes later.
                    raise
            except BaseException:
                self.is_awaited = False
                raise
            self.is_awaited = True  # Somebody else who waited may have given up meanwhile.
        error = self.error()
        if error is not None:
            raise error
        return None if self._outcome is None else self._outcome.result

    def error(self) -> DeliveryError | None:
        """Return why there is no result; None while the message is on its way, or when there is one."""
        outcome = self._outcome
        if self.state is DeliveryState.EXPIRED and outcome is not None:
            return OutcomeExpired(f"Message {self.message_id!r} {outcome.text}", hint=_HOLD)
        if self.state is DeliveryState.EXPIRED:
            return OutcomeExpired(
                f"The master does not know any more what became of message {self.message_id!r}.",
                hint="Outcomes are kept for an hour.",
            )
        if self.state is DeliveryState.FAILED and outcome is not None and outcome.failure is not None:
            failure = outcome.failure
            reason = one_line(f"{failure.error_type}: {failure.text}")
            text = f"Message {self.message_id!r} failed: {reason}"
            return HandlerFailed(text, error_type=failure.error_type, traceback=failure.traceback)
        if self.state is DeliveryState.REJECTED and outcome is not None:
            reason = str(outcome.reason)
            text = one_line(outcome.text) or reason
            text = f"Message {self.message_id!r} was rejected: {text}"
            return MessageRejected(text, reason=reason, hint=HINTS.get(reason, ""))
        return None

    def settle(self, state: DeliveryState, outcome: Outcome | None, route: str = "") -> None:
        """Take a new state, and let go of the payload where it was answered on a route; for the connector."""
        if route:
            self.route = route
            self.released = True
        self._outcome = outcome
        self.state = state


def state_after(outcome: Outcome | None) -> DeliveryState:
    """Return the final state that an outcome stands for; None means that nobody knows."""
    if outcome is None:
        return DeliveryState.EXPIRED
    if outcome.kind is OutcomeKind.DONE:
        return DeliveryState.DONE
    return DeliveryState.FAILED if outcome.kind is OutcomeKind.FAILED else DeliveryState.REJECTED


def at_rest(deliveries: Iterable[Delivery]) -> Callable[[], bool]:
    """Return a question: is each of these safe or rejected for good? Cheap however often it is asked."""
    left = deque(deliveries)

    def are_at_rest() -> bool:
        while left and (left[0].is_safe or left[0].is_final):
            left.popleft()
        return not left

    return are_at_rest
