"""Credit from both ends: what a sender may send, and what a receiver has granted.

Totals count from the start of the connection and never fall, so that a CREDIT frame can be repeated or lost in a later
one without harm. See section 4 of the protocol.
"""

from __future__ import annotations

from harmonicio.core.errors import RemoteProtocolError


class SenderCredit:
    """What this end may send on one connection.

    Attributes:
        window: Messages that the receiver let be unanswered at the same time when it granted the latest ones.
    """

    __slots__ = ("answered", "bytes_total", "messages_total", "sent", "sent_bytes", "window")

    def __init__(self) -> None:
        self.messages_total = 0
        self.bytes_total = 0
        self.sent = 0
        self.sent_bytes = 0
        self.answered = 0
        self.window = 0

    def __repr__(self) -> str:
        return f"<SenderCredit: {self.sent} of {self.messages_total} sent, {self.outstanding} outstanding>"

    @property
    def outstanding(self) -> int:
        """Messages sent and not yet answered."""
        return self.sent - self.answered

    def granted(self, messages_total: int, bytes_total: int) -> None:
        """Take over what a CREDIT frame says."""
        if messages_total > self.messages_total:
            self.messages_total, self.window = messages_total, messages_total - self.answered
        self.bytes_total = max(self.bytes_total, bytes_total)

    def can_send(self, size_bytes: int) -> bool:
        """Whether a message of this size may be sent now."""
        if self.sent >= self.messages_total:
            return False
        return self.sent_bytes + size_bytes <= self.bytes_total or self.sent == self.answered

    def message_sent(self, size_bytes: int) -> int:
        """Count a message and return its number on the connection."""
        number = self.sent
        self.sent = number + 1
        self.sent_bytes += size_bytes
        return number

    def message_taken_back(self, size_bytes: int) -> None:
        """The message that was counted last does not leave."""
        self.sent -= 1
        self.sent_bytes -= size_bytes

    def outcomes_received(self, first: int, last: int) -> None:
        """Count the answers to the messages ``first`` to ``last``.

        Raises:
            RemoteProtocolError: the peer answers what was not sent, or more than was sent.
        """
        if last >= self.sent or self.answered + last - first + 1 > self.sent:
            raise RemoteProtocolError(f"Messages {first} to {last} are answered, but only {self.sent} were sent.")
        self.answered += last - first + 1


class ReceiverCredit:
    """What this end has granted on one connection, and what has come of it."""

    __slots__ = ("answered", "answered_bytes", "bytes_total", "messages_total", "received", "received_bytes")

    def __init__(self) -> None:
        self.messages_total = 0
        self.bytes_total = 0
        self.received = 0
        self.received_bytes = 0
        self.answered = 0
        self.answered_bytes = 0

    def __repr__(self) -> str:
        return f"<ReceiverCredit: {self.received} of {self.messages_total} received, {self.answered} answered>"

    @property
    def outstanding(self) -> int:
        """Messages received and not yet answered."""
        return self.received - self.answered

    def grant(self, messages_total: int, bytes_total: int) -> bool:
        """Raise the totals, never lower them; return whether a CREDIT frame is due."""
        is_more = messages_total > self.messages_total or bytes_total > self.bytes_total
        self.messages_total = max(self.messages_total, messages_total)
        self.bytes_total = max(self.bytes_total, bytes_total)
        return is_more

    def message_received(self, size_bytes: int) -> bool:
        """Count a message; return whether it was within the credit."""
        is_alone = self.received == self.answered
        self.received += 1
        self.received_bytes += size_bytes
        return self.received <= self.messages_total and (is_alone or self.received_bytes <= self.bytes_total)

    def message_answered(self, size_bytes: int) -> None:
        self.answered += 1
        self.answered_bytes += size_bytes
