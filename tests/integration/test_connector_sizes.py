"""Messages of awkward sizes, and ids that are used again, through a real cluster."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import MessageRejected
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.stream_connector.peers import JOINED_BYTES, PIECE_BYTES

HANDLER = """
import zlib
from harmonicio.engine import handler

@handler(streaming=True)
def weigh(message):
    crc = size = 0
    while piece := message.payload_reader.read(4 * 1024**2):
        crc, size = zlib.crc32(piece, crc), size + len(piece)
    return {"size": size, "crc": crc}
"""
SIZES = [0, 1, *(base + step for base in (JOINED_BYTES, PIECE_BYTES, 2**25) for step in (-1, 0, 1))]
#: Gigabytes over loopback and into scratch files take minutes, so only who asks for it: ``make sizes``.
IS_FULL = os.environ.get("SIZES") == "full"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    (tmp_path / "weigh.py").write_text(HANDLER)
    with LocalCluster(tmp_path / "home", max_engines=1) as running:
        running.declare(StreamDeclaration("weigh", handler=str(tmp_path / "weigh.py"), engines=1))
        running.declare(StreamDeclaration("kept", handler="harmonicio.engine.echo", engines=0))
        running.wait_for_engines("weigh", 1)
        yield running


def connect(cluster: LocalCluster, stream: str, **options: object) -> StreamConnector:
    return StreamConnector(stream, master=cluster.url, token=cluster.source_token, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["buffer", "file", "spooled"])
def test_every_size_arrives_whole(cluster: LocalCluster, tmp_path: Path, way: str) -> None:
    content = random.Random(24).randbytes(max(SIZES))
    options = {"spool": tmp_path / "spool", "byte_budget_bytes": 8192} if way == "spooled" else {}
    with connect(cluster, "weigh", checksum="always", patience_s=60.0, **options) as connector:
        for size in SIZES:
            payload = memoryview(content)[:size]
            if way == "file":
                (tmp_path / "payload").write_bytes(payload)
                delivery = connector.send_file(tmp_path / "payload")
            else:
                delivery = connector.send(payload)
            assert delivery.result(60) == {"size": size, "crc": zlib.crc32(payload)}, f"{size} bytes"


@pytest.mark.skipif(not IS_FULL, reason="takes minutes and gigabytes; `make sizes` runs it")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", [2**31 - 1, 2**31, 2**31 + 1, 2**32 + 1])
def test_sizes_around_those_of_numbers_arrive_whole(cluster: LocalCluster, tmp_path: Path, size: int) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(size)
        file.seek(size - 1)
        file.write(b"\7")
    crc, zeros = 0, bytes(2**24)
    for begin in range(0, size - 1, len(zeros)):
        crc = zlib.crc32(zeros[: min(len(zeros), size - 1 - begin)], crc)
    with connect(cluster, "weigh", patience_s=600.0) as connector:
        assert connector.send_file(sparse).result(600) == {"size": size, "crc": zlib.crc32(b"\7", crc)}


def test_an_id_that_is_used_again_stands_for_the_same_bytes_also_for_another_connector(cluster: LocalCluster) -> None:
    with connect(cluster, "kept") as first:
        first.send(b"image", message_id="plate 1")
        first.flush("safe", timeout_s=30)
    with connect(cluster, "kept") as second:
        second.send(b"image", message_id="plate 1")
        second.flush("safe", timeout_s=30)
        assert cluster.client.stream("kept").backlog.ready == 1
    with connect(cluster, "kept") as third:
        delivery = third.send(b"other", message_id="plate 1")
        with pytest.raises(MessageRejected, match="An id stands for one content: give this") as raised:
            delivery.result(30)
        assert raised.value.reason == "id_conflict"
    assert cluster.client.stream("kept").backlog.ready == 1
