"""Handlers that emit: into another stream, into their own, into none; and engines that are killed meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import HandlerFailed, UndeliveredError
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import BacklogOptions
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.options import WorkerOptions

Write = Callable[[str, str], Path]
Connect = Callable[..., StreamConnector]

TILES = """
    import time
    from harmonicio.engine import handler

    @handler
    def cut(message):
        for tile in range(3):
            message.emit(message.payload[tile:], stream="tiles", metadata={"tile": tile})
        time.sleep(0.02)
        return len(message.emitted)
"""

#: Writes down what it was given, one line for each execution.
KEEP = """
    import os
    from harmonicio.engine import handler

    FILE = {file!r}

    @handler
    def keep(message):
        line = f"{{message.id}} {{len(message.payload)}} {{message.metadata}} {{message.priority}}\\n"
        descriptor = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)
"""


def declare(cluster: LocalCluster, name: str, path: Path, *, engines: int = 1, **fields: object) -> None:
    cluster.declare(StreamDeclaration(name, handler=str(path), engines=engines, **fields))
    cluster.wait_for_engines(name, engines)


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def kept(cluster: LocalCluster, write_handler: Write, tmp_path: Path) -> Path:
    """The file in which the stream ``tiles`` writes down what it was given."""
    file = tmp_path / "kept.txt"
    declare(cluster, "tiles", write_handler("keep", KEEP.format(file=str(file))))
    return file


def test_what_a_handler_emits_arrives_in_the_other_stream_with_the_ids_of_its_parent(
    cluster: LocalCluster, write_handler: Write, connect: Connect, kept: Path
) -> None:
    declare(cluster, "images", write_handler("cut", TILES))
    with connect("images") as connector:
        delivery = connector.send(b"0123456789", message_id="frame 7", priority=5)
        assert delivery.result(timeout_s=20) == 3
    wait_until(lambda: len(lines_of(kept)) == 3, what="three tiles")
    assert sorted(lines_of(kept)) == [f"frame 7/{n} {10 - n} {{'tile': {n}}} 5" for n in range(3)]


def test_an_engine_that_is_killed_while_it_emits_leaves_each_emitted_message_once(
    cluster: LocalCluster, write_handler: Write, connect: Connect, kept: Path
) -> None:
    declare(cluster, "images", write_handler("cut", TILES))
    with connect("images") as connector:
        deliveries = [connector.send(os.urandom(100_000), message_id=f"image {n}") for n in range(50)]
        wait_until(lambda: len(lines_of(kept)) >= 30, what="the first tiles")
        os.kill(next(view.pid for view in cluster.client.engines() if view.stream == "images"), signal.SIGKILL)
        assert [each.result(timeout_s=60) for each in deliveries] == [3] * 50
    expected = {f"image {n}/{tile}" for n in range(50) for tile in range(3)}
    assert len(expected) == 150
    wait_until(
        lambda: {line.rpartition(" {")[0].rpartition(" ")[0] for line in lines_of(kept)} >= expected, timeout_s=30
    )
    assert {line.rpartition(" {")[0].rpartition(" ")[0] for line in lines_of(kept)} == expected


def test_a_handler_may_emit_into_its_own_stream_although_its_engine_is_the_only_one(
    cluster: LocalCluster, write_handler: Write, connect: Connect, tmp_path: Path
) -> None:
    code = """
        from harmonicio.engine import handler

        @handler
        def halve(message):
            half = len(message.payload) // 2
            if half:
                message.emit(message.payload[:half], stream=message.stream)
                message.emit(message.payload[half:], stream=message.stream)
            return half
    """
    declare(cluster, "halves", write_handler("halve", code))
    begun = time.monotonic()
    with connect("halves") as connector:
        assert connector.send(bytes(8), message_id="m").result(timeout_s=30) == 4
    wait_until(lambda: cluster.client.engines()[0].handled == 15, what="the last halves", timeout_s=30)
    assert time.monotonic() - begun < 20


def test_what_is_emitted_into_a_stream_that_does_not_exist_makes_a_dead_letter_that_says_so(
    cluster: LocalCluster, write_handler: Write, connect: Connect
) -> None:
    code = """
        from harmonicio.engine import handler

        @handler
        def lose(message):
            message.emit(b"x", stream="nowhere")
    """
    declare(cluster, "images", write_handler("lose", code))
    with connect("images") as connector, pytest.raises(HandlerFailed, match="nowhere"):
        connector.send(b"image").result(timeout_s=20)
    wait_until(lambda: [each.dead for each in cluster.client.backlog()] == [1], what="one dead letter")


@pytest.mark.parametrize("size_bytes", [1_000, 3_000_000])
def test_streams_that_emit_into_each_other_do_not_wait_for_each_other(
    tmp_path: Path, write_handler: Write, size_bytes: int
) -> None:
    """Neither for a handler's slot nor for room in memory, which here is for one message."""
    code = """
        from harmonicio.engine import handler

        @handler
        def bounce(message):
            left = message.metadata["left"]
            if left:
                other = "pong" if message.stream == "ping" else "ping"
                message.emit(message.payload, stream=other, metadata={"left": left - 1})
    """
    path = write_handler("bounce", code)
    worker = WorkerOptions("small", tmp_path / "worker", tmp_path / "scratch", 2, payload_budget_bytes=4_000_000)
    with LocalCluster(tmp_path / "cluster", worker=worker) as cluster:
        declare(cluster, "ping", path)
        declare(cluster, "pong", path)
        with StreamConnector("ping", master=cluster.url, token=cluster.source_token) as connector:
            deliveries = [connector.send(bytes(size_bytes), metadata={"left": 9}) for _ in range(3)]
            for delivery in deliveries:
                delivery.result(timeout_s=40)
        handled = lambda: sum(view.handled for view in cluster.client.engines())  # noqa: E731
        wait_until(lambda: handled() == 30, timeout_s=40, what="all bounces")
        assert all(each.dead == 0 for each in cluster.client.backlog())


#: Begins a handler's file: each try to emit lasts as long as its stream says, and not half a minute.
BRIEF = """
        from harmonicio.core import stream
        from harmonicio.engine import handler

        stream.KEEPING_AT_LEAST_S = 0.0
"""


def test_a_parent_waits_free_of_charge_for_as_long_as_the_backlog_has_no_room_for_what_it_emitted(
    tmp_path: Path, write_handler: Write
) -> None:
    code = (
        BRIEF
        + """
        @handler
        def cut(message):
            with open(FILE, "a") as file:
                file.write("x\\n")
            for _ in range(2):
                message.emit(bytes(200_000), stream="tiles")
            return message.attempt
    """
    )
    runs, file = tmp_path / "runs.txt", tmp_path / "kept.txt"
    cut = write_handler("cut", code.replace("FILE", repr(str(runs))))
    keep = write_handler("keep", KEEP.format(file=str(file)))
    small = BacklogOptions(max_disk_bytes=4 * 1024**2)
    with LocalCluster(tmp_path / "cluster", max_engines=2, backlog=small) as cluster:
        declare(cluster, "tiles", keep, engines=0)
        declare(cluster, "images", cut, engines=0, timeout_s=3.0, max_attempts=1)
        source = {"master": cluster.url, "token": cluster.source_token, "patience_s": 0.0}
        with StreamConnector("images", **source) as images, StreamConnector("tiles", **source) as tiles:
            parent = images.send(b"image", message_id="m")
            images.flush("safe", timeout_s=20)
            others = [tiles.send(bytes(100_000), message_id=f"other {n}") for n in range(60)]
            full = lambda: sum(view.ready for view in cluster.client.backlog() if view.stream == "tiles") > 35  # noqa: E731
            wait_until(full, what="a full backlog")
            cluster.client.scale_stream("images", 1)
            wait_until(lambda: len(lines_of(runs)) >= 3, timeout_s=40, what="runs beyond the only attempt")
            assert [each.dead for each in cluster.client.backlog()] == [0, 0]
            cluster.client.scale_stream("tiles", 1)
            assert parent.result(timeout_s=60) == 1, "no attempt was counted"
            for other in others:
                other.result(timeout_s=40)
        wait_until(lambda: len(lines_of(file)) >= len(others) + 2, timeout_s=40, what="all tiles")
        tiles_kept = [line.partition(" ")[0] for line in lines_of(file) if line.startswith("m/")]
        assert sorted(tiles_kept) == ["m/0", "m/1"], "each once"
        assert [each.dead for each in cluster.client.backlog()] == [0, 0]


def test_a_stream_that_emits_into_itself_stands_still_while_the_backlog_is_full_and_goes_on_when_there_is_room(
    tmp_path: Path, write_handler: Write
) -> None:
    code = (
        BRIEF
        + """
        @handler
        def again(message):
            with open(FILE, "a") as file:
                file.write(f"{message.id} {message.attempt}\\n")
            left = message.metadata["left"]
            if left:
                message.emit(message.payload, stream=message.stream, metadata={"left": left - 1})
    """
    )
    runs = tmp_path / "runs.txt"
    again = write_handler("again", code.replace("FILE", repr(str(runs))))
    small = BacklogOptions(max_disk_bytes=4 * 1024**2)
    with LocalCluster(tmp_path / "cluster", max_engines=1, backlog=small) as cluster:
        declare(cluster, "others", again, engines=0)
        declare(cluster, "circle", again, engines=0, timeout_s=3.0, max_attempts=1)
        source = {"master": cluster.url, "token": cluster.source_token, "patience_s": 0.0}
        with StreamConnector("circle", **source) as circle, StreamConnector("others", **source) as others:
            parents = [circle.send(bytes(100_000), metadata={"left": 2}, message_id=f"m{n}") for n in range(3)]
            circle.flush("safe", timeout_s=20)
            filling = [others.send(bytes(100_000)) for _ in range(60)]
            wait_until(lambda: sum(view.ready for view in cluster.client.backlog()) > 35, what="a full backlog")
            cluster.client.scale_stream("circle", 1)
            wait_until(lambda: len(lines_of(runs)) > len(parents), timeout_s=40, what="runs beyond the only attempts")
            assert not any(each.dead for each in cluster.client.backlog())
            with pytest.raises(UndeliveredError):
                others.close(timeout_s=0.0)
            assert len([each for each in filling if each.is_safe]) > 30
            cluster.client.delete_stream("others", is_forced=True)
            for parent in parents:
                parent.result(timeout_s=60)
        everything = {f"m{n}{child} 1" for n in range(3) for child in ("", "/0", "/0/0")}
        wait_until(lambda: set(lines_of(runs)) == everything, timeout_s=40, what="the whole circle, without attempts")
        assert not any(each.dead for each in cluster.client.backlog())


def test_a_drain_lets_an_engine_finish_what_it_emits(
    cluster: LocalCluster, write_handler: Write, connect: Connect, tmp_path: Path
) -> None:
    code = """
        import os, pathlib, time
        from harmonicio.engine import handler

        @handler
        def run(message):
            with open(FILE, "a") as file:
                file.write(f"{message.stream} {message.id} {os.getpid()}\\n")
            if message.stream == "images":
                message.emit(b"tile", stream="tiles")
            else:
                time.sleep(1.5)
    """
    file = tmp_path / "runs.txt"
    path = write_handler("run", code.replace("FILE", repr(str(file))))
    declare(cluster, "tiles", path)
    declare(cluster, "images", path)
    with connect("images", patience_s=30) as connector:
        delivery = connector.send(b"image", message_id="m")
        wait_until(lambda: len(lines_of(file)) == 2, what="the tile's handler")
        os.kill(int(lines_of(file)[0].split()[2]), signal.SIGTERM)
        delivery.result(timeout_s=20)
        assert delivery.route == "engine", "the engine that drained has answered"
    assert [line.split()[:2] for line in lines_of(file)] == [["images", "m"], ["tiles", "m/0"]]
