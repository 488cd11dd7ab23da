"""Tells others that the backlog has changed, from a thread of its own.

Whoever changes the backlog may hold locks that a listener wants, so nobody is called from within a change. What happens
while the listeners are busy is told once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Notifier:
    """Calls listeners, one call at a time."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._streams: set[str] = set()
        self._has_room = False
        self._is_closing = False
        self._on_change: Callable[[str], None] | None = None
        self._on_room: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name="backlog-notifier", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Notifier {'closing' if self._is_closing else 'open'}, {len(self._streams)} streams to tell of>"

    @property
    def is_intact(self) -> bool:
        return self._thread.is_alive()

    def set_listeners(self, *, on_change: Callable[[str], None] | None, on_room: Callable[[], None] | None) -> None:
        """Say who is told; None tells nobody."""
        self._on_change, self._on_room = on_change, on_room

    def changed(self, stream: str) -> None:
        """More or fewer messages of the stream are ready."""
        with self._condition:
            self._streams.add(stream)
            self._condition.notify()

    def has_room(self) -> None:
        """The backlog takes messages again."""
        with self._condition:
            self._has_room = True
            self._condition.notify()

    def close(self) -> None:
        """Call nobody any more. May be repeated."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._streams or self._has_room or self._is_closing)
                if self._is_closing:
                    return
                streams, self._streams = self._streams, set()
                has_room, self._has_room = self._has_room, False
            self._tell(streams, has_room)

    def _tell(self, streams: set[str], has_room: bool) -> None:
        try:
            if self._on_change is not None:
                for stream in streams:
                    self._on_change(stream)
            if self._on_room is not None and has_room:
                self._on_room()
        except Exception:  # noqa: BLE001  a listener's bug must not silence the backlog; it is logged
            _log.exception("A listener of the backlog failed")
