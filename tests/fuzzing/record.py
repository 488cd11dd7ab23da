"""Records what real peers say to each other: ``cd tests && python -m fuzzing.record``.

A real cluster runs here: the master and the connectors in this process, where their connections are listened to, and an
engine in its own. What is recorded is for the fuzzer to begin with; nothing depends on its being the newest.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

from fuzzing.conversations import FOLDER
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import HarmonicIOError
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.transport.link import Link
from harmonicio.wire.connection import Connection, Part
from harmonicio.wire.events import Hello, Role

HANDLER = """
    import time
    from harmonicio.engine import handler

    @handler
    def see(message):
        word = bytes(message.payload[:8])
        if word == b"bad     ":
            raise ValueError("a bad pixel")
        time.sleep(0.03)
        return {"size": len(message.payload), "channel": message.metadata.get("channel")}
"""


class Recorder:
    """Listens to every link of this process."""

    def __init__(self) -> None:
        self.heard: dict[Any, bytearray] = defaultdict(bytearray)
        self.said: dict[Any, bytearray] = defaultdict(bytearray)
        self.hellos: dict[Any, Hello] = {}
        self.links: list[Link] = []

    @contextlib.contextmanager
    def listening(self) -> Any:
        receive, send, next_event = Connection.bytes_received, Link.send, Connection.next_event
        buffer_of = Connection.receive_buffer
        heard, said, recorder = self.heard, self.said, self

        def receive_buffer(connection: Connection) -> memoryview:
            connection_buffers[connection] = buffer_of(connection)
            return connection_buffers[connection]

        def bytes_received(connection: Connection, count: int) -> None:
            heard[connection] += connection_buffers.pop(connection)[:count]
            receive(connection, count)

        def send_all(link: Link, *buffers: Any) -> None:
            if link not in recorder.links:
                recorder.links.append(link)
            for each in buffers:
                said[link] += each
            send(link, *buffers)

        def event_of(connection: Connection) -> Any:
            event = next_event(connection)
            if isinstance(event, Hello):
                recorder.hellos[connection] = event
            return event

        connection_buffers: dict[Connection, memoryview] = {}
        Connection.receive_buffer, Connection.bytes_received = receive_buffer, bytes_received  # type: ignore[method-assign]
        Link.send, Connection.next_event = send_all, event_of  # type: ignore[method-assign]
        try:
            yield
        finally:
            Connection.receive_buffer, Connection.bytes_received = buffer_of, receive  # type: ignore[method-assign]
            Link.send, Connection.next_event = send, next_event  # type: ignore[method-assign]

    def conversations(self) -> dict[str, bytes]:
        """Return what was said between whom, the first conversation of each kind."""
        found: dict[str, bytes] = {}
        for link in self.links:
            connection = link.connection
            peer = self.hellos.get(connection)
            if peer is None:
                continue
            own = Role.MASTER if connection._is_listener else Role.CONNECTOR
            name_in, name_out = f"{peer.role}_to_{own}", f"{own}_to_{peer.role}"
            assert connection.part in (Part.SENDER, Part.RECEIVER)
            for name, data in ((name_in, self.heard[connection]), (name_out, self.said[link])):
                if len(data) > len(found.get(name, b"")):
                    found[name] = bytes(data)
        return found


def talk(cluster: LocalCluster, folder: Path) -> None:
    """Let every kind of frame be said."""
    handler = folder / "see.py"
    handler.write_text(dedent(HANDLER))
    stream = StreamDeclaration("images", handler=str(handler), max_attempts=2)
    cluster.client.declare_stream(stream)
    options: dict[str, Any] = {"stream": "images", "master": cluster.url, "token": cluster.source_token}
    with StreamConnector(**options, patience_s=0.01) as connector:
        waiting = [connector.send(bytes(300), metadata={"channel": "gfp"}, priority=at) for at in range(20)]
        connector.flush("safe", timeout_s=60)
        waiting += [connector.send(bytes(70_000), message_id="plate 7 µ"), connector.send(b"bad     ")]
        results(waiting)
    with StreamConnector(**options) as connector:
        results([connector.send(bytes(500), metadata={"at": [1, 2.5, None]}) for _ in range(40)])


def results(deliveries: Sequence[Any]) -> None:
    for delivery in deliveries:
        with contextlib.suppress(HarmonicIOError):
            delivery.result(timeout_s=60)


def main() -> None:
    recorder = Recorder()
    with (
        tempfile.TemporaryDirectory() as name,
        recorder.listening(),
        LocalCluster(Path(name) / "cluster", max_engines=1) as cluster,
    ):
        talk(cluster, Path(name))
    FOLDER.mkdir(exist_ok=True)
    for name, data in recorder.conversations().items():
        (FOLDER / f"{name}.bin").write_bytes(data)
        print(name, len(data))  # noqa: T201


if __name__ == "__main__":
    main()
