"""A source on the host and an engine in a container: they meet in the engine's folder, and share memory."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until

WHERE = """
import hashlib
from harmonicio.engine import handler
kept = []
@handler
def where(message):
    if message.metadata.get("keep"):
        kept.append(message.payload)
    return [type(message.payload.obj).__name__, hashlib.sha256(message.payload).hexdigest()]
"""


def test_payloads_reach_a_container_through_shared_memory_and_slots_come_back_when_it_is_killed(
    cluster: LocalCluster, connect: Callable[..., StreamConnector], engine_image: Callable[[str, str], str]
) -> None:
    cluster.declare(StreamDeclaration("where", image=engine_image("where", WHERE)))
    cluster.wait_for_engines("where", 1)
    with connect("where", patience_s=60.0) as connector:
        payload = os.urandom(3_000_000)
        expected = ["mmap", hashlib.sha256(payload).hexdigest()]
        assert connector.send(payload).result(30) == expected
        slot = connector.allocate(len(payload))
        slot.view[:] = payload
        assert connector.send(slot, metadata={"keep": True}).result(30) == expected
        used_bytes = connector._slots.used_bytes
        assert used_bytes > 0
        (engine,) = cluster.client.engines()
        os.kill(engine.pid, signal.SIGKILL)
        wait_until(lambda: connector._slots.used_bytes == 0, 30)
        assert connector.send(payload).result(60) == expected
