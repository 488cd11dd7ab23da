"""A stream of images that are kept in tiers, its source, and all that can be seen of it from outside.

The handler notes what it is given and is slow until it is told to hurry, so that messages wait. What became of them is
read from the disk: the copies in the tiers, the feature rows, and the rows of the backlog's index.
"""

from __future__ import annotations

import hashlib
import math
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from textwrap import dedent

from benches.auditor import DEAD, PROCESSED, WAITING, Auditor
from harmonicio.core.errors import HarmonicIOError
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import Delivery, DeliveryState, StreamConnector

STREAM = "plates"
_HANDLER = """
    import hashlib, os, time
    from harmonicio.engine import handler

    @handler
    def look(message):
        line = f"{message.id} {hashlib.sha256(message.payload).hexdigest()}\\n"
        fd = os.open("FOLDER/handled", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, line.encode())
        os.close(fd)
        if not os.path.exists("FOLDER/hurry"):
            time.sleep(PAUSE_S)
        return {"focus": (message.payload[0] if len(message.payload) else 0) / 255}
"""


def payload_of(number: int, size_bytes: int) -> bytes:
    return random.Random(number).randbytes(size_bytes)


class Plates:
    """One stream.

    Args:
        folder: Gets the handler, its notes, and the tiers.
        pause_s: How long the handler takes until it is to :meth:`hurry`.
    """

    def __init__(self, folder: Path, *, size_bytes: int, pause_s: float) -> None:
        self._folder = folder
        self._size_bytes = size_bytes
        self._lock = threading.Lock()
        self.deliveries: list[Delivery] = []
        self.auditor = Auditor()
        handler = dedent(_HANDLER).replace("FOLDER", str(folder)).replace("PAUSE_S", str(pause_s))
        (folder / "look.py").write_text(handler)

    def declaration(self, engines: int = 0) -> StreamDeclaration:
        haste = {
            "function": {"name": "feature", "feature": "focus"},
            "policy": {"intervals": [[0, 0.5, "B"], [0.5, 1, "A"]]},
            "tiers": {name: {"folder": str(self._folder / "tiers" / name)} for name in ("A", "B", "unscored")},
        }
        return StreamDeclaration(
            STREAM, handler=str(self._folder / "look.py"), engines=engines, plugins={"haste": haste}
        )

    def hurry(self) -> None:
        (self._folder / "hurry").touch()

    def send(self, connector: StreamConnector, priority: int = 0) -> Delivery:
        """Send the next message. Used by one thread."""
        number = len(self.deliveries)
        message_id, payload = f"m{number:05d}", payload_of(number, self._size_bytes)
        with self._lock:
            self.auditor.sent(message_id, hashlib.sha256(payload).hexdigest())
        delivery = connector.send(payload, message_id=message_id, priority=priority)
        self.deliveries.append(delivery)
        return delivery

    @property
    def handled(self) -> list[str]:
        """What the handlers have noted so far: ids with digests."""
        path = self._folder / "handled"
        return path.read_text().splitlines() if path.exists() else []

    def audit(self, master_folder: Path) -> Auditor:
        """Hold what the source was told against what lies on the disk. Nothing runs any more."""
        for delivery in self.deliveries:
            if delivery.is_safe:
                self.auditor.told_safe(delivery.message_id, "done" if delivery.route == "engine" else "stored")
            if delivery.state in (DeliveryState.DONE, DeliveryState.FAILED):
                state = PROCESSED if delivery.state is DeliveryState.DONE else DEAD
                self.auditor.told_end(delivery.message_id, state)
        for line in self.handled:
            self.auditor.executed(*line.split())
        for path in sorted((self._folder / "tiers").rglob("*")):
            if path.is_file():
                self.auditor.effect(path.name.partition("~")[0], hashlib.sha256(path.read_bytes()).hexdigest())
        for message_id in _ids(master_folder / "features.sqlite", "SELECT message_id FROM feature_rows"):
            self.auditor.found(message_id, PROCESSED)
        for state, condition in ((WAITING, "IS NULL"), (DEAD, "IS NOT NULL")):
            for message_id in _ids(
                master_folder / "backlog" / "backlog.sqlite",
                f"SELECT message_id FROM entries WHERE failure {condition}",
            ):
                self.auditor.found(message_id, state)
        return self.auditor


class Source:
    """Sends in a thread of its own until the block ends, or ``messages`` are sent, so many a second at most."""

    def __init__(
        self, plates: Plates, connector: StreamConnector, per_s: float = 1e6, messages: float = math.inf
    ) -> None:
        self._plates, self._connector, self._per_s, self._messages = plates, connector, per_s, messages
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="source")
        self.error: HarmonicIOError | None = None

    def __enter__(self) -> Source:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ending.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while len(self._plates.deliveries) < self._messages and not self._is_ending.wait(1 / self._per_s):
                self._plates.send(self._connector)
        except HarmonicIOError as error:
            self.error = error


def _ids(path: Path, query: str) -> Iterator[str]:
    if not path.exists():
        return  # The disk has gone with its master, which was asked before.
    with closing(sqlite3.connect(path)) as connection:
        for (message_id,) in connection.execute(query).fetchall():
            yield message_id
