"""Messages one by one, where the wire gives those in one event that are here together.

How many that are depends on how the bytes were cut, which few tests are about: most read message by message.
"""

from __future__ import annotations

from collections.abc import Iterator

from harmonicio.wire.events import Event, IncomingMessage, MessagesReceived


def one_by_one(event: Event) -> Iterator[Event | IncomingMessage]:
    """Yield the event; where it is of whole messages, each of them in its place."""
    if isinstance(event, MessagesReceived):
        assert event.messages, "an event of no message"
        yield from event.messages
    else:
        yield event
