"""Source and engines of one host: payloads travel through shared memory, and come back whatever ends on the way."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import ConnectionEnded, InvalidInput, MessageRejected
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.stream_connector.peers import FLUSH_BYTES
from harmonicio.stream_connector.sources import FileSource
from harmonicio.testing.waiting import wait_until

WHERE = """
    import hashlib, os, time
    import numpy as np
    from harmonicio.engine import handler
    kept = []
    @handler
    def where(message):
        if message.metadata.get("drop"):
            kept.clear()
        if message.metadata.get("keep"):
            kept.append(np.frombuffer(message.payload, dtype="u1")[100:200])
        if "sleep" in message.metadata:
            open(message.metadata["sleep"], "a").write(f"{os.getpid()}\\n")
            time.sleep(0 if message.attempt > 1 or len(open(message.metadata["sleep"]).readlines()) > 1 else 60)
        return {
            "in": type(message.payload.obj).__name__,
            "digest": hashlib.sha256(message.payload).hexdigest(),
            "kept": [hashlib.sha256(each).hexdigest() for each in kept],
            "pid": os.getpid(),
        }
"""
SHARED = "mmap"
SOURCE = """
import os, sys, time
from harmonicio.stream_connector import StreamConnector
connector = StreamConnector("where", master=sys.argv[1], token=sys.argv[2])
print(connector.send(os.urandom(500_000)).result(30)["in"], flush=True)
time.sleep(60)
"""


@pytest.fixture
def declare(cluster: LocalCluster, write_handler: Callable[[str, str], Path]) -> Callable[..., None]:
    """Have so many engines of the stream ``where``."""

    def make(engines: int = 1, **fields: object) -> None:
        path = write_handler("where", WHERE)
        cluster.declare(StreamDeclaration("where", handler=str(path), engines=engines, **fields))  # type: ignore[arg-type]
        cluster.wait_for_engines("where", engines)

    return make


def digest_of(payload: object) -> str:
    return hashlib.sha256(payload).hexdigest()  # type: ignore[arg-type]


def used_bytes(connector: StreamConnector) -> int:
    return connector._slots.used_bytes


def engine_pids(cluster: LocalCluster) -> list[int]:
    return [view.pid for view in cluster.client.engines() if view.pid]


def arenas_of(pid: int) -> int:
    """Return how many mappings and descriptors of shared memory of ours a process has."""
    mapped = Path(f"/proc/{pid}/maps").read_text().count("memfd:harmonicio-arena")
    files = list(Path(f"/proc/{pid}/fd").iterdir())
    return mapped + sum("memfd:harmonicio-arena" in os.readlink(each) for each in files if each.is_symlink())


def test_large_payloads_are_found_in_shared_memory_and_small_ones_travel_beside_them(
    declare: Callable[..., None], connect: Callable[..., StreamConnector]
) -> None:
    declare()
    sizes = [0, 1, 16_384, 16_385, 100_000, 3_000_000, 20_000_000]
    payloads = [os.urandom(size) for size in sizes] * 5
    with connect("where") as connector:
        answers = [delivery.result(30) for delivery in connector.send_many(payloads)]
        assert [each["digest"] for each in answers] == [digest_of(each) for each in payloads]
        kinds = {size: answer["in"] for size, answer in zip(sizes * 5, answers, strict=True)}
        assert [kind == SHARED for kind in kinds.values()] == [False, False, False, True, True, True, True]
        wait_until(lambda: used_bytes(connector) == 0)


@pytest.mark.parametrize("size", [10, 50_000, 5_000_000])
def test_a_message_that_is_written_in_place_is_not_copied(
    declare: Callable[..., None], connect: Callable[..., StreamConnector], size: int
) -> None:
    declare()
    with connect("where") as connector:
        for value in range(30):
            slot = connector.allocate(size)
            assert slot.is_shared
            np.frombuffer(slot.view, dtype="u1")[:] = value
            delivery = connector.send(slot, metadata={"value": value})
            with pytest.raises(InvalidInput, match="sent or given back"):
                connector.send(slot)
            answer = delivery.result(30)
            assert (answer["in"], answer["digest"]) == (SHARED, digest_of(bytes([value]) * size))
            assert delivery.released
        with connector.allocate(size) as unsent:
            assert used_bytes(connector) > 0
        assert not unsent.is_shared or used_bytes(connector) == 0


def test_files_are_read_into_shared_memory_unless_they_are_very_large(
    tmp_path: Path, declare: Callable[..., None], connect: Callable[..., StreamConnector]
) -> None:
    declare()
    sizes = [0, 1, 16_384, 65_536, 65_537, 1_500_000, FLUSH_BYTES, FLUSH_BYTES + 1]
    paths = [tmp_path / f"{size}.raw" for size in sizes]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(os.urandom(size))
    with connect("where") as connector:
        for path in paths * 2:
            answer = connector.send_file(path).result(30)
            size = path.stat().st_size
            assert answer["digest"] == digest_of(path.read_bytes())
            assert (answer["in"] == SHARED) == (16_384 < size <= FLUSH_BYTES), size
        wait_until(lambda: used_bytes(connector) == 0)


def test_a_file_that_changes_before_it_is_read_is_rejected_and_leaves_no_shared_memory_behind(
    tmp_path: Path, declare: Callable[..., None], connect: Callable[..., StreamConnector]
) -> None:
    declare()
    path = tmp_path / "image.raw"
    with connect("where") as connector:
        connector.send(b"").result(30)
        for change in (lambda: os.truncate(path, 1_000_000), lambda: path.write_bytes(bytes(3_000_001))):
            path.write_bytes(os.urandom(3_000_000))
            source = FileSource(path)
            change()
            delivery = connector._outgoing.send(source, None, 0, None)
            with pytest.raises(MessageRejected, match=r"shorter|changed"):
                delivery.result(30)
        payload = os.urandom(1_000_000)
        assert connector.send(payload).result(30)["digest"] == digest_of(payload)
        wait_until(lambda: used_bytes(connector) == 0)


def test_a_view_that_a_handler_keeps_holds_its_slot_until_it_has_gone(
    declare: Callable[..., None], connect: Callable[..., StreamConnector]
) -> None:
    declare()
    with connect("where", arena_max_bytes=2**21) as connector:
        first = os.urandom(300_000)
        connector.send(first, metadata={"keep": True}).result(30)
        for _ in range(50):
            answer = connector.send(os.urandom(300_000)).result(30)
            assert answer["kept"] == [digest_of(first[100:200])]
            assert answer["in"] == SHARED
        assert used_bytes(connector) > 0
        connector.send(b"", metadata={"drop": True}).result(30)
        wait_until(lambda: used_bytes(connector) == 0)


def test_a_full_arena_makes_nobody_wait(declare: Callable[..., None], connect: Callable[..., StreamConnector]) -> None:
    declare()
    with connect("where", arena_max_bytes=2**20) as connector:
        held = [connector.allocate(300_000) for _ in range(5)]
        assert [each.is_shared for each in held] == [True, True, True, False, False]
        payload = os.urandom(400_000)
        answer = connector.send(payload).result(30)
        assert (answer["in"] == SHARED, answer["digest"]) == (False, digest_of(payload))
        for number, slot in enumerate(held):
            slot.view[:] = bytes([number]) * 300_000
        for number, delivery in enumerate([connector.send(slot) for slot in held]):
            assert delivery.result(30)["digest"] == digest_of(bytes([number]) * 300_000)
        wait_until(lambda: used_bytes(connector) == 0)
        assert connector.send(payload).result(30)["in"] == SHARED


def test_without_a_socket_or_an_arena_everything_goes_as_before(
    cluster: LocalCluster, tmp_path: Path, declare: Callable[..., None], connect: Callable[..., StreamConnector]
) -> None:
    declare()
    with connect("where", arena_max_bytes=0) as connector:
        assert connector.send(bytes(100_000)).result(30)["in"] != SHARED
        assert not connector.allocate(100).is_shared
    with connect("where", checksum="always") as connector:
        assert connector.send(bytes(100_000)).result(30)["in"] != SHARED
    (socket,) = (tmp_path / "cluster" / "worker" / "engines").glob("*/socket/data.sock")
    assert socket.stat().st_mode & 0o777 == 0o600
    socket.unlink()
    with connect("where") as connector:
        slot = connector.allocate(100_000)
        slot.view[:5] = b"hello"
        answer = connector.send(slot).result(30)
        assert (answer["in"] == SHARED, answer["digest"]) == (False, digest_of(b"hello" + bytes(99_995)))


def test_what_a_killed_engine_held_is_processed_elsewhere_and_its_slots_come_back(
    tmp_path: Path, declare: Callable[..., None], connect: Callable[..., StreamConnector]
) -> None:
    declare(engines=2, max_attempts=5)
    started = tmp_path / "started"
    with connect("where") as connector:
        payload = os.urandom(2_000_000)
        slot = connector.allocate(len(payload))
        slot.view[:] = payload
        delivery = connector.send(slot, metadata={"sleep": str(started)})
        wait_until(lambda: started.exists() and started.read_text().endswith("\n"))
        os.kill(int(started.read_text().split()[0]), signal.SIGKILL)
        answer = delivery.result(60)
        assert answer["digest"] == digest_of(payload)
        assert answer["pid"] != int(started.read_text().split()[0])
        del slot
        wait_until(lambda: used_bytes(connector) == 0)


def test_slots_of_an_engine_that_was_given_up_are_not_used_until_its_process_has_ended(
    cluster: LocalCluster, tmp_path: Path, declare: Callable[..., None], connect: Callable[..., StreamConnector]
) -> None:
    declare(engines=1)
    started = tmp_path / "started"
    with connect("where", arena_max_bytes=2**22) as connector:
        delivery = connector.send(os.urandom(1_000_000), metadata={"sleep": str(started)})
        wait_until(lambda: started.exists() and started.read_text().endswith("\n"))
        frozen = int(started.read_text().split()[0])
        os.kill(frozen, signal.SIGSTOP)
        used = used_bytes(connector)
        (peer,) = connector._exchange._peers.values()
        connector._exchange.pump.end(peer, ConnectionEnded("It is given up."))
        wait_until(lambda: delivery.route == "backlog")
        assert used_bytes(connector) == used > 0
        os.kill(frozen, signal.SIGKILL)
        wait_until(lambda: used_bytes(connector) == 0)


def test_when_a_source_is_killed_its_engine_keeps_nothing_of_its_memory(
    cluster: LocalCluster, declare: Callable[..., None]
) -> None:
    declare()
    (pid,) = engine_pids(cluster)
    arguments = [sys.executable, "-c", SOURCE, cluster.url, cluster.source_token]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as source:
        assert source.stdout is not None
        assert source.stdout.readline() == f"{SHARED}\n"
        assert arenas_of(pid) == 2
        source.kill()
    wait_until(lambda: arenas_of(pid) == 0)
