"""Watches the containers of one worker by the Docker engine's events, also across its restarts.

connect ──► look at everything once ──► events …
   ▲                                       │ the Docker engine is gone
   └──────────── wait a moment ◄───────────┘
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping

from harmonicio.core.back_off import delay_s
from harmonicio.core.errors import HarmonicIOError
from harmonicio.worker.containers.docker_host import DockerEvents, DockerHost
from harmonicio.worker.containers.docker_records import DockerEvent

_log = logging.getLogger(__name__)

FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 2.0


class DockerWatch:
    """A thread that tells what happens to containers.

    Args:
        labels: Of the containers that are ours.
        on_connected: Called when events begin to be heard, each time; may raise what :class:`DockerHost` raises.
        on_event: Called with each event.
    """

    def __init__(
        self,
        host: DockerHost,
        labels: Mapping[str, str],
        *,
        on_connected: Callable[[], None],
        on_event: Callable[[DockerEvent], None],
    ) -> None:
        self._host = host
        self._labels = labels
        self._on_connected = on_connected
        self._on_event = on_event
        self._is_closing = threading.Event()
        self._lock = threading.Lock()
        self._events: DockerEvents | None = None
        self._thread = threading.Thread(target=self._run, name="worker-docker-watch", daemon=True)

    def __repr__(self) -> str:
        return f"<DockerWatch {'connected' if self._events else 'not connected'} to {self._host!r}>"

    @property
    def is_intact(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        with self._lock:
            self._is_closing.set()
            if self._events is not None:
                self._events.close()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        failures = 0
        while not self._is_closing.is_set():
            try:
                self._listen()
                failures = 0
                _log.debug("The Docker engine has ended the connection for events.")
            except HarmonicIOError as error:
                failures += 1
                if failures == 1:
                    _log.warning("Engines in containers cannot be watched for the moment: %s", error)
            except Exception:  # noqa: BLE001  without the watch no end of an engine is heard any more; it is logged
                failures += 1
                _log.exception("The watch over containers goes on")
            self._is_closing.wait(
                delay_s(max(1, failures), first_s=FIRST_DELAY_S, longest_s=LONGEST_DELAY_S, chance=random.random())
            )

    def _listen(self) -> None:
        events = self._host.events(self._labels)
        with self._lock:
            self._events = events
            if self._is_closing.is_set():
                events.close()
        try:
            self._on_connected()
            for event in events:
                self._on_event(event)
        finally:
            with self._lock:
                self._events = None
            events.close()
