"""The engine's connection to the master, over which the backlog is pushed: dialled again whenever it ends.

(closed) ──dial, HELLO──► serving ──ended──► wait, longer each time, by chance ──► dial …
"""

from __future__ import annotations

import logging
import random
import select
import threading
from collections.abc import Callable

from harmonicio.control.engine_messages import EngineConfiguration
from harmonicio.core.back_off import delay_s
from harmonicio.core.errors import HarmonicIOError
from harmonicio.engine.reception import SOFTWARE
from harmonicio.engine.session import Session
from harmonicio.transport import tcp
from harmonicio.transport.credentials import TlsCredentials
from harmonicio.transport.link import Link
from harmonicio.wire import checksum
from harmonicio.wire.connection import State
from harmonicio.wire.events import Goodbye, Hello, Role

_log = logging.getLogger(__name__)

DIAL_TIMEOUT_S = 5.0
FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 5.0


class BacklogConnection:
    """Keeps one connection to the master's data port, in a thread of its own.

    Args:
        tls: What to show, and whom to believe, where the master speaks TLS.
        open_session: Makes the session of a connection that the master has accepted.
    """

    def __init__(
        self, configuration: EngineConfiguration, tls: TlsCredentials, open_session: Callable[[Link], Session]
    ) -> None:
        self._configuration = configuration
        self._open_session = open_session
        self._tls = tls
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-backlog", daemon=True)
        self.is_connected = False

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "not connected"
        return f"<BacklogConnection to {self._configuration.master_data}, {state}>"

    @property
    def is_intact(self) -> bool:
        """Whether its thread, which dials again whatever happens, is there."""
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the connection and its thread; waits for a handler that the thread runs."""
        self._closing.set()
        with self._lock:
            if self._link is not None:
                self._link.channel.shutdown()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            try:
                self._serve_once()
            except HarmonicIOError as error:
                was_connected, self.is_connected = self.is_connected, False
                if self._closing.is_set():
                    return
                if was_connected:
                    failures = 0
                level = logging.DEBUG if failures else logging.WARNING
                _log.log(level, "No backlog connection to the master, dialling again: %s", error)
            except Exception:  # noqa: BLE001  a bug in serving must not end the engine's part in the backlog; it is logged
                _log.exception("The backlog connection failed, dialling again")
            failures += 1
            self._closing.wait(
                delay_s(failures, first_s=FIRST_DELAY_S, longest_s=LONGEST_DELAY_S, chance=random.random())
            )

    def _serve_once(self) -> None:
        hello = self._hello()
        address, tls = self._configuration.master_data, self._tls.dialling()
        link = Link(tcp.dial(address, timeout_s=DIAL_TIMEOUT_S, tls=tls), Role.ENGINE)
        try:
            with self._lock:
                self._link = link
            if not self._closing.is_set():
                link.greet(hello)
                self._serve(link, self._open_session(link))
        finally:
            with self._lock:
                self._link = None
            link.close()

    def _serve(self, link: Link, session: Session) -> None:
        error: HarmonicIOError | None = None
        try:
            self.is_connected = True
            session.opened()
            self._serve_events(link, session)
        except HarmonicIOError as caught:
            error = caught
            raise
        finally:
            session.closed(error)
            error = None  # It would keep this frame, and so what the master has not finished.

    def _serve_events(self, link: Link, session: Session) -> None:
        poll = select.poll()
        poll.register(link.channel.fileno(), select.POLLIN)
        while not self._closing.is_set():
            event = link.next_event()
            if event is None:
                if link.read_at_once():
                    continue
                session.pause()
                if link.connection.state is State.CLOSED:
                    return
                if not link.read():
                    link.rest()
                    poll.poll()
            elif isinstance(event, Goodbye):
                session.checkpoint()  # What was done for it before is still worth telling.
                raise HarmonicIOError(f"The master ended the connection: {event.text or event.code or 'no reason'}.")
            else:
                session.handle(event)

    def _hello(self) -> Hello:
        configuration = self._configuration
        return Hello(
            Role.ENGINE,
            stream=configuration.declaration.name,
            ticket=configuration.ticket,
            engine=configuration.engine,
            worker=configuration.worker,
            checksums=() if configuration.master_data.is_loopback else checksum.offered(),
            max_message_bytes=configuration.declaration.max_message_bytes,
            software=SOFTWARE,
        )
