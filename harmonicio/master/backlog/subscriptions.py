"""Who wants to hear of the final outcomes of which messages."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

from harmonicio.core.message import Outcome

#: Called with the message id and its outcome; None when the outcome is not known any more.
OnFinal = Callable[[str, Outcome | None], None]


class Subscriptions:
    """Callbacks by stream and message id. Not thread-safe: the backlog's lock guards it."""

    def __init__(self) -> None:
        self._by_stream: dict[str, dict[str, list[OnFinal]]] = {}

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._by_stream.values())

    def __repr__(self) -> str:
        return f"<Subscriptions to {len(self)} messages>"

    def add(self, stream: str, message_id: str, on_final: OnFinal) -> None:
        self._by_stream.setdefault(stream, {}).setdefault(message_id, []).append(on_final)

    def remove(self, stream: str, message_ids: Iterable[str], on_final: OnFinal) -> None:
        """Forget a callback, as far as it has not been taken."""
        waiting = self._by_stream.get(stream, {})
        for message_id in message_ids:
            left = [each for each in waiting.get(message_id, ()) if each != on_final]
            if left:
                waiting[message_id] = left
            else:
                waiting.pop(message_id, None)
        self._tidy(stream)

    def take(self, stream: str, message_id: str) -> list[OnFinal]:
        """Return who is to be called now, and forget them."""
        callbacks = self._by_stream.get(stream, {}).pop(message_id, [])
        if callbacks:
            self._tidy(stream)
        return callbacks

    def take_stream(self, stream: str, but: Container[str] = ()) -> list[tuple[str, OnFinal]]:
        """Return everybody who waits for a message of the stream but these, and forget them."""
        waiting = self._by_stream.pop(stream, {})
        if kept := {message_id: waiting.pop(message_id) for message_id in tuple(waiting) if message_id in but}:
            self._by_stream[stream] = kept
        return [(message_id, each) for message_id, callbacks in waiting.items() for each in callbacks]

    def _tidy(self, stream: str) -> None:
        if not self._by_stream.get(stream, True):
            del self._by_stream[stream]
