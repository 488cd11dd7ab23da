"""A handler that runs in another thread than its connection's, so that the connection goes on meanwhile.

submitted ──granted──► running ──► (streamed payload is over) ──► answered
    └─────refused────► rejected: draining

A handler that returns before its payload is here gives slot and thread back: whoever receives the rest answers. When an
error of ours leaves a message without an answer, its connection is cut: the sender would wait for ever.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from harmonicio.core.errors import ConnectionEnded
from harmonicio.core.message import Outcome, RejectReason
from harmonicio.engine.answers import Answers
from harmonicio.engine.payloads import Payload
from harmonicio.engine.slots import Slot, Slots
from harmonicio.engine.streaming import Arrival
from harmonicio.engine.work import Work
from harmonicio.wire.events import IncomingMessage

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

DRAINING = Outcome.rejected(RejectReason.DRAINING, "The engine takes no new messages, because it ends.")
CLOGGED = Outcome.rejected(
    RejectReason.NO_CREDIT, "No handler of the engine is free soon: all wait for what they emitted, or one runs alone."
)
DAMAGED = Outcome.rejected(RejectReason.CHECKSUM, "The payload was damaged on its way: its checksum does not match.")


def refusal_of(slots: Slots) -> Outcome:
    """Return the answer to a message that has no slot and will have none."""
    return DRAINING if slots.is_draining else CLOGGED


class Owner(Protocol):
    """The session that a task belongs to."""

    @property
    def is_closed(self) -> bool: ...

    @property
    def answers(self) -> Answers: ...

    def checkpoint(self) -> None: ...

    def cut(self) -> None: ...


class Task:
    """One message with its payload, on its way through a slot.

    Args:
        content: What the handler gets.
        arrival: Of a payload that is still arriving; None when it is here.
    """

    def __init__(
        self,
        owner: Owner,
        slots: Slots,
        work: Work,
        message: IncomingMessage,
        content: Any,
        payload: Payload,
        arrival: Arrival | None = None,
    ) -> None:
        self._owner = owner
        self._slots = slots
        self._work = work
        self._message = message
        self._content = content
        self._payload: Payload | None = payload
        self._arrival = arrival

    def __repr__(self) -> str:
        return f"<Task {self._message!r}>"

    def granted(self, slot: Slot) -> None:
        self._owner.answers.message_granted()
        self._slots.run_soon(functools.partial(self._answering, self._run), slot)

    def refused(self) -> None:
        self._slots.flusher.start_soon(functools.partial(self._answering, self._when_over, self._answer_refused))

    def _answering(self, act: Callable[[_T], None], argument: _T) -> None:
        """Act in a thread that keeps what goes wrong to itself; see that the sender hears of it."""
        try:
            act(argument)
        except Exception:  # noqa: BLE001  an error of ours must not leave the sender waiting; it is logged
            _log.exception("Message %s has no answer, so its connection is cut", self._message.id)
            self._owner.cut()
            self._when_over(self._release)

    def _run(self, slot: Slot) -> None:
        if self._owner.is_closed:  # The sender sends it again elsewhere: running it here would be for nothing.
            self._slots.release(slot, 0, 0.0)
            self._release()
            return
        begun_at = time.monotonic()
        slot.begin(self._message.id, begun_at)
        try:
            outcome, detail = self._work.run(self._content, slot)
        finally:
            self._slots.release(slot, 1, time.monotonic() - begun_at)
        self._when_over(functools.partial(self._answer, outcome, detail))

    def _when_over(self, answer: Callable[[bool], None]) -> None:
        if self._arrival is None:
            answer(True)
        else:
            self._arrival.when_over(answer)

    def _answer(self, outcome: Outcome, detail: bytes, is_intact: bool) -> None:
        self._release()
        if is_intact:
            self._owner.answers.message_handled(self._message, outcome, detail)
        else:
            self._owner.answers.message_refused(self._message, DAMAGED, was_started=True)
        self._flush()

    def _answer_refused(self, _: bool) -> None:
        self._release()
        self._owner.answers.message_refused(self._message, refusal_of(self._slots))
        self._flush()

    def _release(self, _: bool = True) -> None:
        self._content = None
        if self._arrival is not None:
            self._arrival.close()
        payload, self._payload = self._payload, None
        if payload is not None:
            payload.release()

    def _flush(self) -> None:
        try:
            self._owner.checkpoint()
        except ConnectionEnded as error:
            _log.debug("An answer has nobody to go to any more: %s", error)
