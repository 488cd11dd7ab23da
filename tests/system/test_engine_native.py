"""An engine that shares no code with ours, `examples/native_engine` in Node, under a real worker and master."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from benches.native_engine import ENGINE, brightness, node
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control import json_codec
from harmonicio.control.engine_messages import EngineOrder
from harmonicio.core.errors import HandlerFailed
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.bare_peers import BareConnector, BareController, BareMaster, configuration_of, lease_ticket
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.options import WorkerOptions
from harmonicio.worker.runtimes import RUNTIMES
from harmonicio.worker.runtimes.process import ProcessRuntime

Connect = Callable[..., StreamConnector]


class NodeRuntime(ProcessRuntime):
    """Starts ``node FILE``, as the process runtime starts Python; the handler of the stream is FILE."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given, command=[node()])


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    node()
    monkeypatch.setitem(RUNTIMES.table, "node", f"{__name__}:NodeRuntime")
    worker = WorkerOptions("local", tmp_path / "worker", tmp_path / "scratch", max_engines=4, runtime="node")
    with LocalCluster(tmp_path / "cluster", worker=worker) as running:
        yield running


def declare(cluster: LocalCluster, *, engines: int = 1, **fields: Any) -> None:
    cluster.declare(StreamDeclaration("images", handler=str(ENGINE), engines=engines, **fields))
    cluster.wait_for_engines("images", engines)


def test_messages_of_all_sizes_come_back_with_what_is_in_them(cluster: LocalCluster, connect: Connect) -> None:
    declare(cluster, engines=2)
    payloads = [random.Random(size).randbytes(size) for size in (0, 1, 1_000, 100_000, 10_000_000)]
    with connect("images", patience_s=30.0) as one, connect("images", patience_s=30.0) as other:
        sent = [
            (pixels, background, connector.send(pixels, metadata={"background": background, "site": ["Uppsala", None]}))
            for connector in (one, other)
            for background, pixels in enumerate(payloads)
        ]
        for pixels, background, delivery in sent:
            assert delivery.result(timeout_s=30) == pytest.approx(brightness(pixels, background))
        assert one.figures().via_backlog == other.figures().via_backlog == 0


def test_what_the_handler_throws_is_tried_again_and_then_dead(cluster: LocalCluster, connect: Connect) -> None:
    declare(cluster, max_attempts=2)
    with connect("images") as connector:
        bad, good = connector.send(b"\1\2", metadata={"background": "dark"}), connector.send(b"\1\2")
        assert good.result(timeout_s=20) == brightness(b"\1\2")
        with pytest.raises(HandlerFailed, match="background") as caught:
            bad.result(timeout_s=20)
    assert caught.value.error_type == "TypeError"
    assert "engine.js" in caught.value.traceback
    wait_until(lambda: [each.dead for each in cluster.client.backlog()] == [1], what="one dead letter")


def test_what_waits_in_the_backlog_is_processed_once_an_engine_is_there(
    cluster: LocalCluster, connect: Connect
) -> None:
    cluster.declare(StreamDeclaration("images", handler=str(ENGINE), engines=0))
    with connect("images", patience_s=0.05) as connector:
        deliveries = [connector.send(bytes([number]) * 100_000) for number in range(50)]
        connector.flush("safe", timeout_s=30)
        cluster.client.scale_stream("images", 1)
        results = [delivery.result(timeout_s=30) for delivery in deliveries]
        assert connector.figures().via_backlog == 50
    assert [result["mean"] for result in results] == list(range(50))
    wait_until(lambda: [each.handled for each in cluster.client.engines()] == [50])


def test_a_burst_takes_both_ways_and_nothing_stays_behind(cluster: LocalCluster, connect: Connect) -> None:
    declare(cluster)
    with connect("images", patience_s=0.02) as connector:
        deliveries = [connector.send(bytes([number]) * 1_000_000) for number in range(200)]
        connector.flush("processed", timeout_s=60)
        assert [delivery.result(timeout_s=5)["mean"] for delivery in deliveries] == list(range(200))
        figures = connector.figures()
    assert figures.via_engine > 0
    assert figures.via_backlog > 0
    assert all(each.ready == each.reserved == each.dead == 0 for each in cluster.client.backlog())


def test_an_engine_that_is_killed_under_load_loses_nothing(cluster: LocalCluster, connect: Connect) -> None:
    declare(cluster)
    (killed,) = cluster.client.engines()
    with connect("images") as connector:
        deliveries = []
        for number in range(200):
            deliveries.append(connector.send(bytes([number]) * 1_000_000))
            if number == 100:
                os.kill(killed.pid, signal.SIGKILL)
        connector.flush("processed", timeout_s=60)
        assert [delivery.result(timeout_s=5)["mean"] for delivery in deliveries] == list(range(200))
    wait_until(lambda: [each.state for each in cluster.client.engines() if each.engine != killed.engine] == ["idle"])


def test_an_engine_that_is_not_wanted_any_more_drains_and_ends_in_order(
    cluster: LocalCluster, connect: Connect
) -> None:
    declare(cluster, engines=2)
    with connect("images") as connector:
        deliveries = [connector.send(bytes(100_000)) for _ in range(100)]
        cluster.client.scale_stream("images", 0)
        wait_until(lambda: cluster.client.stream("images").running == 0, 20)
        cluster.client.scale_stream("images", 1)
        assert {delivery.result(timeout_s=30)["count"] for delivery in deliveries} == {100_000}
    wait_until(lambda: all(not worker.troubles for worker in cluster.client.workers()))


def test_a_configuration_file_is_gone_once_it_is_read(tmp_path: Path) -> None:
    with closing(BareMaster()) as master, closing(BareController(tmp_path / "control.sock")) as controller:
        stream = StreamDeclaration("cells", image="brightness")
        configuration = configuration_of(tmp_path, stream, master_data=master.address)
        (file := tmp_path / "configuration.json").write_bytes(json_codec.dumps(configuration))
        with subprocess.Popen([node(), str(ENGINE), str(file)]) as process, ExitStack() as exits:
            exits.callback(process.kill)
            wait_until(lambda: controller.last and controller.last.state == "idle")
            assert not file.exists()
            controller.order(EngineOrder(5.0))
            assert process.wait(20) == 0


def test_an_engine_without_a_configuration_says_so_in_one_line() -> None:
    run = subprocess.run([node(), str(ENGINE)], input="", capture_output=True, text=True, timeout=20)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1


@pytest.fixture
def engine_with(tmp_path: Path) -> Iterator[Callable[[str], tuple[BareConnector, BareController]]]:
    """Start the example with another handler, between bare peers."""
    with ExitStack() as exits:

        def start(handler: str) -> tuple[BareConnector, BareController]:
            master = exits.enter_context(closing(BareMaster()))
            controller = exits.enter_context(closing(BareController(tmp_path / "control.sock")))
            configuration = configuration_of(
                tmp_path, StreamDeclaration("cells", handler="mine"), master_data=master.address
            )
            (program := tmp_path / "engine.js").write_text(f"{ENGINE.read_text()}\nhandle = {handler};\n")
            (given := tmp_path / "configuration.json").write_bytes(json_codec.dumps(configuration))
            process = exits.enter_context(subprocess.Popen([node(), str(program), str(given)]))
            exits.callback(process.kill)
            wait_until(lambda: controller.last and controller.last.address)
            assert controller.last is not None
            assert controller.last.address is not None
            connector = BareConnector(controller.last.address, lease_ticket(configuration), "cells")
            return exits.enter_context(connector), controller

        yield start


EngineWith = Callable[[str], tuple[BareConnector, BareController]]


def test_its_msgpack_reads_what_ours_writes_and_writes_what_ours_reads(engine_with: EngineWith) -> None:
    numbers = [0, -1, 127, 128, 255, 256, 65_536, 2**32, 2**53 - 1, -32, -33, -129, -(2**31) - 1, -(2**32), 0.5, -1e300]
    texts = {"": "x" * 40, "Å": "é" * 300, "long": "y" * 30_000}
    value: list[Any] = [
        None,
        True,
        False,
        numbers,
        texts,
        [list(range(20))] * 20,
        {str(key): [] for key in range(1_000)},
    ]
    connector, _ = engine_with("(payload, { value }) => value")
    assert connector.outcome(connector.send(b"", metadata={"value": value})).result == value
    deep = json.loads("[" * 58 + "]" * 58)
    assert connector.outcome(connector.send(b"", metadata={"value": deep})).result == deep


@pytest.mark.parametrize(
    "handler",
    ["() => 'x'.repeat(65_536)", "() => Array(1_000_000).fill(0)", "() => { const a = []; a.push(a); return a; }"],
)
def test_a_result_that_cannot_be_sent_is_a_failure_for_good(engine_with: EngineWith, handler: str) -> None:
    connector, _ = engine_with(handler)
    failure = connector.outcome(connector.send(b"\1")).failure
    assert failure is not None
    assert not failure.retryable


def test_what_ran_is_known_when_a_handler_ends_its_engine(engine_with: EngineWith) -> None:
    connector, controller = engine_with("() => process.exit(1)")
    connector.send(b"\1", message_id="the last one")
    wait_until(lambda: controller.last and [each.message for each in controller.last.running] == ["the last one"])
