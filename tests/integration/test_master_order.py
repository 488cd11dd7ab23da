"""An ordered stream is processed in order, whatever happens to its engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import HandlerFailed
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import BacklogOptions
from harmonicio.stream_connector import StreamConnector

HANDLER = """
    import os
    import signal
    from pathlib import Path
    from harmonicio.engine import handler

    HERE = Path(__file__).parent

    def is_first(what):
        marker = HERE / what
        if marker.exists():
            return False
        marker.touch()
        return True

    @handler
    def note(message):
        number = message.metadata["number"]
        if message.metadata.get("crash") and is_first(f"crashed-{number}"):
            os.kill(os.getpid(), signal.SIGKILL)
        if message.metadata.get("fail") and is_first(f"failed-{number}"):
            raise ValueError("not yet")
        if message.metadata.get("bad"):
            raise ValueError("never")
        with open(HERE / "noted.txt", "a") as file:
            file.write(f"{number}\\n")
"""
Start = Callable[[int], StreamConnector]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    (tmp_path / "note.py").write_text(dedent(HANDLER))
    with LocalCluster(tmp_path / "cluster", max_engines=2) as running:
        yield running


@pytest.fixture
def start(cluster: LocalCluster, tmp_path: Path) -> Start:
    """Declare the stream with so many engines, and connect to it."""

    def connect(engines: int) -> StreamConnector:
        cluster.declare(
            StreamDeclaration(
                "rows", handler=str(tmp_path / "note.py"), engines=engines, ordered=True, max_attempts=2, max_crashes=2
            )
        )
        cluster.wait_for_engines("rows", engines)
        return StreamConnector(stream="rows", master=cluster.url, token=cluster.source_token)

    return connect


def noted(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "noted.txt").read_text().split()]


@pytest.mark.timeout(90)
def test_messages_stay_in_order_over_crashes_and_failed_attempts(start: Start, tmp_path: Path) -> None:
    trouble = {10: "crash", 20: "fail", 30: "bad", 40: "crash"}
    with start(1) as connector:
        for number in range(60):
            connector.send(
                bytes(100 + 5_000 * (number % 7)), metadata={"number": number, trouble.get(number, "ok"): True}
            )
        with pytest.raises(HandlerFailed, match="never"):
            connector.flush("processed", timeout_s=60)
        assert connector.figures().via_engine == 0
    assert noted(tmp_path) == [number for number in range(60) if number != 30]


@pytest.mark.timeout(90)
def test_larger_priorities_go_first_and_each_priority_is_in_order(
    start: Start, cluster: LocalCluster, tmp_path: Path
) -> None:
    sent = [(number % 3, number) for number in range(60)]
    with start(0) as connector:
        for priority, number in sent:
            connector.send(b"row", metadata={"number": number, "crash": number == 31}, priority=priority)
        connector.flush("safe", timeout_s=20)
        cluster.client.scale_stream("rows", 1)
        connector.flush("processed", timeout_s=60)
    assert noted(tmp_path) == [number for _, number in sorted(sent, key=lambda each: (-each[0], each[1]))]


@pytest.mark.timeout(90)
@pytest.mark.parametrize("is_ordered_at_first", [True, False])
def test_messages_stay_in_order_although_the_backlog_is_full_at_times(
    tmp_path: Path, is_ordered_at_first: bool
) -> None:
    (tmp_path / "note.py").write_text(dedent(HANDLER))
    rows = StreamDeclaration("rows", handler=str(tmp_path / "note.py"), engines=0, ordered=is_ordered_at_first)
    with LocalCluster(
        tmp_path / "cluster", max_engines=1, backlog=BacklogOptions(max_disk_bytes=4 * 1024**2)
    ) as running:
        running.declare(rows)
        with StreamConnector(stream="rows", master=running.url, token=running.source_token) as connector:
            connector.send(b"row", metadata={"number": 0})
            connector.flush("safe", timeout_s=20)
            running.declare(replace(rows, engines=1, ordered=True))
            running.wait_for_engines("rows", 1)
            for number in range(1, 100):
                connector.send(bytes(100_000), metadata={"number": number})
            connector.flush("processed", timeout_s=60)
    assert noted(tmp_path) == list(range(100))
