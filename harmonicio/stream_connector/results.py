"""Messages that the master has stored, until their final outcome is known to those who want it.

    stored ──wanted──► to ask ──SUBSCRIBE──► asked ──RESULTS──► final
                          ▲                     │
                          └── connection lost ──┘

A final outcome is asked for when somebody waits for that message's result, or for all of them once ``flush`` has
waited for processing. How many stored messages are remembered is bounded; what is forgotten is counted, so that nobody
is told that all is well. Pure; the connector calls under its lock.
"""

from __future__ import annotations

from harmonicio.stream_connector.delivery import Delivery

#: A stored message costs about 400 bytes here.
MAX_REMEMBERED = 500_000
#: As many ids go into one question at most.
MAX_QUESTION = 10_000


class Results:
    """The stored messages of one connector."""

    def __init__(self, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._stored: dict[str, Delivery] = {}
        self._twins: dict[str, dict[Delivery, None]] = {}
        self._twin_count = 0
        self._to_ask: dict[str, None] = {}
        self._asked: dict[str, None] = {}
        self._wants_all = False
        self.forgotten = 0

    def __repr__(self) -> str:
        return f"<Results: {len(self)} open, {len(self._asked)} asked, {self.forgotten} forgotten>"

    def __len__(self) -> int:
        """Stored messages whose final outcome is not known."""
        return len(self._stored) + self._twin_count

    @property
    def has_questions(self) -> bool:
        """Whether there is something to ask."""
        return bool(self._to_ask)

    @property
    def needs_connection(self) -> bool:
        """Whether there is something to ask or to hear."""
        return bool(self._to_ask or self._asked)

    def stored(self, delivery: Delivery) -> None:
        """The master has this message."""
        if len(self) >= self._max_remembered and not delivery.is_awaited:
            self.forgotten += 1
        elif delivery.is_awaited or self._wants_all:
            self.want(delivery)
        else:
            self._remember(delivery)

    def want(self, delivery: Delivery) -> None:
        """Somebody waits for the outcome of this stored message."""
        self._remember(delivery)
        if delivery.message_id not in self._asked:
            self._to_ask[delivery.message_id] = None

    def want_all(self) -> None:
        """From now on the outcome of every stored message is wanted."""
        self._wants_all = True
        self._to_ask.update((message_id, None) for message_id in self._stored if message_id not in self._asked)

    def take_question(self) -> list[str]:
        """Return ids to ask for now; empty when there are none."""
        question = list(self._to_ask)[:MAX_QUESTION] if len(self._to_ask) > MAX_QUESTION else list(self._to_ask)
        for message_id in question:
            del self._to_ask[message_id]
            self._asked[message_id] = None
        return question

    def connection_lost(self) -> None:
        """What was asked must be asked again on the next connection."""
        self._to_ask = {**self._asked, **self._to_ask}
        self._asked = {}

    def final(self, message_id: str) -> list[Delivery]:
        """The outcome of this message has come; return whom it concerns."""
        self._asked.pop(message_id, None)
        self._to_ask.pop(message_id, None)
        delivery = self._stored.pop(message_id, None)
        twins = self._twins.pop(message_id, {})
        self._twin_count -= len(twins)
        return [] if delivery is None else [delivery, *twins]

    def _remember(self, delivery: Delivery) -> None:
        """A source may send the same id twice; then both deliveries have the same end."""
        first = self._stored.setdefault(delivery.message_id, delivery)
        if first is delivery:
            return
        twins = self._twins.setdefault(delivery.message_id, {})
        self._twin_count += delivery not in twins
        twins[delivery] = None
