"""What the log says of messages that could not be given out or kept: a line for many of them, now and then."""

from __future__ import annotations

import logging

from harmonicio.core.errors import StorageError
from harmonicio.core.message import Outcome
from harmonicio.core.printable import one_line
from harmonicio.master.backlog.entry import Reservation
from harmonicio.master.backlog.log_pace import LogPace
from harmonicio.master.backlog.reservations import engine_of

_log = logging.getLogger(__name__)

#: Of what an engine says.
MAX_LOGGED_LENGTH = 200
#: One line about late outcomes in so many seconds.
LATE_LOG_INTERVAL_S = 10.0
#: One about messages for which engines have no room.
PUT_OFF_LOG_INTERVAL_S = 60.0
#: One about payloads that cannot be read.
UNREADABLE_LOG_INTERVAL_S = 10.0


class AnswerLog:
    """Logs late outcomes, messages that engines could not keep, and those whose payloads cannot be read."""

    def __init__(self) -> None:
        self._late = LogPace(LATE_LOG_INTERVAL_S)
        self._put_off = LogPace(PUT_OFF_LOG_INTERVAL_S)
        self._unreadable = LogPace(UNREADABLE_LOG_INTERVAL_S)

    def __repr__(self) -> str:
        return f"<AnswerLog: late {self._late!r}, put off {self._put_off!r}>"

    def late(self, reservation: Reservation, outcome: Outcome, now: float) -> None:
        """An outcome came for an attempt that had been given up."""
        if count := self._late.count(now):
            _log.warning(
                "Outcomes came for attempts that had been given up, and change nothing: %d; the last was `%s` from %s "
                "for message %r of stream %r, attempt %d",
                count,
                outcome.kind.name.lower(),
                engine_of(reservation.holder),
                reservation.entry.message_id,
                reservation.entry.stream,
                reservation.attempt,
            )

    def put_off(self, reservation: Reservation, outcome: Outcome, now: float) -> None:
        """An engine had no room for a message, or could not keep what came of it."""
        if count := self._put_off.count(now):
            _log.warning(
                "Engines could not keep messages, which stay in the backlog and are offered again: %d; the last was "
                "message %r of stream %r, %d bytes, at %s: %s",
                count,
                reservation.entry.message_id,
                reservation.entry.stream,
                reservation.entry.size_bytes,
                engine_of(reservation.holder),
                one_line(outcome.text)[:MAX_LOGGED_LENGTH],
            )

    def unreadable(self, reservation: Reservation, error: StorageError, now: float) -> None:
        """A payload could not be read."""
        if count := self._unreadable.count(now):
            _log.error(
                "Messages cannot be given out: %d; the last was %r of stream %r, which %s: %s",
                count,
                reservation.entry.message_id,
                reservation.entry.stream,
                "is tried again" if error.retryable else "becomes a dead letter",
                error,
            )
