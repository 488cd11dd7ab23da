"""Messages of awkward sizes, and ids that are used again, through a real cluster."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import MessageRejected
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.sqlite_schema import INLINE_MAX_BYTES
from harmonicio.master.service import BacklogOptions
from harmonicio.stream_connector import StreamConnector
from harmonicio.stream_connector.lanes import JOINED_BYTES
from harmonicio.stream_connector.peers import PIECE_BYTES
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.frames import MAX_INLINE_BYTES

HANDLER = """
import hashlib
from harmonicio.engine import handler

@handler(streaming=True)
def weigh(message):
    digest, size = hashlib.sha256(), 0
    while piece := message.payload_reader.read(4 * 1024**2):
        digest.update(piece)
        size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}
"""
#: Where something else is done with what is a byte larger: writing, the index and the files of the backlog, reading.
BORDERS = {JOINED_BYTES, INLINE_MAX_BYTES, MAX_INLINE_BYTES, PIECE_BYTES, 2**25}
SIZES = [0, 1, *sorted(border + step for border in BORDERS for step in (-1, 0, 1))]
#: Gigabytes over loopback and into scratch files take minutes, so only who asks for it: ``make sizes``.
IS_FULL = os.environ.get("SIZES") == "full"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    (tmp_path / "weigh.py").write_text(HANDLER)
    from_disk = BacklogOptions(hot_cache_bytes=0)
    with LocalCluster(tmp_path / "home", max_engines=1, backlog=from_disk) as running:
        running.declare(StreamDeclaration("weigh", handler=str(tmp_path / "weigh.py"), engines=1))
        running.declare(StreamDeclaration("kept", handler="harmonicio.engine.echo", engines=0))
        running.wait_for_engines("weigh", 1)
        yield running


def connect(cluster: LocalCluster, stream: str, **options: object) -> StreamConnector:
    return StreamConnector(stream, master=cluster.url, token=cluster.source_token, **options)  # type: ignore[arg-type]


@contextmanager
def no_engine(cluster: LocalCluster) -> Iterator[None]:
    """What is sent in this block goes to the backlog, from which an engine takes it afterwards."""
    cluster.client.scale_stream("weigh", 0)
    wait_until(lambda: cluster.client.stream("weigh").running == 0, 30)
    yield
    cluster.client.scale_stream("weigh", 1)


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
            assert delivery.result(60) == weighed(payload), f"{size} bytes"


def test_every_size_arrives_whole_from_the_backlog(cluster: LocalCluster) -> None:
    content = memoryview(random.Random(24).randbytes(max(SIZES)))
    with connect(cluster, "weigh", patience_s=0.0) as connector:
        with no_engine(cluster):
            deliveries = [connector.send(content[:size]) for size in SIZES]
            connector.flush("safe", timeout_s=60)
            assert cluster.client.stream("weigh").backlog.ready == len(SIZES)
        for size, delivery in zip(SIZES, deliveries, strict=True):
            assert delivery.result(60) == weighed(content[:size]), f"{size} bytes"


def weighed(payload: memoryview) -> dict[str, object]:
    return {"size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}


@pytest.mark.skipif(not IS_FULL, reason="takes minutes and gigabytes; `make sizes` runs it")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["engine", "backlog"])
@pytest.mark.parametrize("size", [2**31 - 1, 2**31, 2**31 + 1, 2**32 + 1])
def test_sizes_around_those_of_numbers_arrive_whole(cluster: LocalCluster, tmp_path: Path, size: int, way: str) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        for begin in range(0, size, 2**20):  # Each piece says which it is.
            file.seek(begin)
            file.write(begin.to_bytes(8))
        file.truncate(size)
    with sparse.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    with connect(cluster, "weigh", patience_s=600.0 if way == "engine" else 0.0) as connector:
        with no_engine(cluster) if way == "backlog" else nullcontext():
            delivery = connector.send_file(sparse)
            if way == "backlog":
                connector.flush("safe", timeout_s=600)
        assert delivery.result(600) == {"size": size, "sha256": sha256}


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


def test_an_id_that_goes_straight_to_an_engine_is_new_when_another_connector_has_used_it(cluster: LocalCluster) -> None:
    for content in (b"image", b"other"):
        with connect(cluster, "weigh", patience_s=60.0) as connector:
            delivery = connector.send(content, message_id="plate 1")
            assert delivery.result(30) == weighed(memoryview(content))
            assert delivery.route == "engine"
