"""What a user sees of delivery: both routes, results, nothing stranded, nothing through the master."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import HandlerFailed
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until

Write = Callable[[str, str], Path]
Connect = Callable[..., StreamConnector]

DIGEST = """
    import hashlib
    from harmonicio.engine import handler

    @handler
    def digest(message):
        return hashlib.sha256(message.payload).hexdigest()
"""

SLOW = """
    import time
    from harmonicio.engine import handler

    @handler
    def slow(message):
        time.sleep(message.metadata.get("seconds", 0.05))
        return message.id
"""


def declare(cluster: LocalCluster, name: str, path: Path, *, engines: int = 1, **fields: object) -> None:
    cluster.declare(StreamDeclaration(name, handler=str(path), engines=engines, **fields))
    cluster.wait_for_engines(name, engines)


def test_each_of_a_thousand_messages_comes_back_with_the_digest_of_its_payload(
    cluster: LocalCluster, write_handler: Write, connect: Connect
) -> None:
    declare(cluster, "digest", write_handler("digest", DIGEST), engines=2)
    payloads = [os.urandom(size) for size in (0, 1, 1000, 65_536, 65_537, 300_000)] + [b"x%d" % n for n in range(994)]
    with connect("digest") as connector:
        deliveries = [connector.send(payload, metadata={"number": n}) for n, payload in enumerate(payloads)]
        for payload, delivery in zip(payloads, deliveries, strict=True):
            assert delivery.result(timeout_s=60) == hashlib.sha256(payload).hexdigest()


def test_a_burst_beyond_the_capacity_takes_the_backlog_and_is_processed(
    cluster: LocalCluster, write_handler: Write, connect: Connect
) -> None:
    declare(cluster, "slow", write_handler("slow", SLOW), engines=2)
    with connect("slow") as connector:
        deliveries = [connector.send(b"image", metadata={"seconds": 0.02}) for _ in range(100)]
        connector.flush("safe", timeout_s=30)
        connector.flush("processed", timeout_s=60)
        assert [delivery.result(timeout_s=5) for delivery in deliveries] == [each.message_id for each in deliveries]
        figures = connector.figures()
    assert figures.processed == 100
    assert figures.via_engine > 0
    assert figures.via_backlog > 0
    assert all(each.ready == each.reserved == 0 for each in cluster.client.backlog())


@pytest.mark.parametrize("size_bytes", [1_000, 100_000])
def test_no_message_waits_while_the_engine_is_idle(
    cluster: LocalCluster, write_handler: Write, connect: Connect, size_bytes: int
) -> None:
    declare(cluster, "digest", write_handler("digest", DIGEST))
    payload = bytes(size_bytes)
    with connect("digest") as connector:
        for _ in range(50):
            for _ in range(50):
                connector.send(payload)
            connector.flush("processed", timeout_s=20)
        assert connector.figures().processed == 2_500


def test_a_handler_that_raises_is_tried_again_and_then_dead_with_its_traceback(
    cluster: LocalCluster, write_handler: Write, connect: Connect
) -> None:
    code = """
        from harmonicio.engine import handler

        @handler
        def picky(message):
            if message.metadata.get("bad"):
                raise ValueError("this image is not one")
            return "fine"
    """
    declare(cluster, "picky", write_handler("picky", code), max_attempts=2)
    with connect("picky") as connector:
        bad, good = connector.send(b"?", metadata={"bad": True}), connector.send(b"!")
        assert good.result(timeout_s=20) == "fine"
        with pytest.raises(HandlerFailed) as caught:
            bad.result(timeout_s=20)
    assert caught.value.error_type == "ValueError"
    assert "this image is not one" in str(caught.value)
    assert "picky.py" in caught.value.traceback
    wait_until(lambda: [each.dead for each in cluster.client.backlog()] == [1], what="one dead letter")


def test_an_engine_that_is_killed_is_replaced_and_every_message_is_processed(
    cluster: LocalCluster, write_handler: Write, connect: Connect
) -> None:
    declare(cluster, "slow", write_handler("slow", SLOW), engines=2)
    first = {view.engine: view.pid for view in cluster.client.engines()}
    payload = os.urandom(2_000_000)
    with connect("slow") as connector:
        deliveries = []
        for number in range(200):
            deliveries.append(connector.send(payload, metadata={"seconds": 0.005}))
            if number == 80:
                os.kill(next(iter(first.values())), signal.SIGKILL)
        connector.flush("processed", timeout_s=90)
        assert [delivery.result(timeout_s=5) for delivery in deliveries] == [each.message_id for each in deliveries]
    cluster.wait_for_engines("slow", 2)
    now = {view.engine for view in cluster.client.engines() if view.state in ("idle", "busy")}
    assert len(now) == 2
    assert now - set(first), "a new engine has appeared"


def test_a_handler_that_never_returns_is_killed_and_its_message_becomes_a_dead_letter(
    cluster: LocalCluster, write_handler: Write, connect: Connect
) -> None:
    declare(cluster, "slow", write_handler("slow", SLOW), timeout_s=1.0, max_attempts=2)
    with connect("slow") as connector:
        stuck = connector.send(b"", metadata={"seconds": 3600})
        with pytest.raises(HandlerFailed):
            stuck.result(timeout_s=60)
        assert connector.send(b"", metadata={"seconds": 0}).result(timeout_s=30)


def test_payloads_do_not_pass_through_the_master_while_engines_are_free(
    cluster: LocalCluster, write_handler: Write, connect: Connect
) -> None:
    code = """
        from harmonicio.engine import handler

        @handler
        def ignore(message):
            return None
    """
    declare(cluster, "ignore", write_handler("ignore", code), engines=2)
    before = cluster.client.status()
    with connect("ignore", patience_s=30.0) as connector:
        payload = bytes(10_000_000)
        for _ in range(100):
            connector.send(payload)
        connector.flush("processed", timeout_s=60)
    after = cluster.client.status()
    grown = (after.data_received_bytes + after.control_received_bytes) - (
        before.data_received_bytes + before.control_received_bytes
    )
    assert grown < 1_000_000


SEND_FILE = """
    import sys, threading
    from pathlib import Path
    from harmonicio.stream_connector import StreamConnector

    def anonymous_bytes():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

    path, master, token = sys.argv[1:]
    peak, is_done = anonymous_bytes(), threading.Event()
    def watch():
        global peak
        while not is_done.wait(0.02):
            peak = max(peak, anonymous_bytes())
    watcher = threading.Thread(target=watch)
    watcher.start()
    with StreamConnector("digest", master=master, token=token, patience_s=60.0) as connector:
        print(connector.send_file(path).result(timeout_s=100))
    is_done.set()
    watcher.join()
    print(peak)
"""


def test_a_file_of_three_gigabytes_is_sent_without_being_in_memory(
    cluster: LocalCluster, write_handler: Write, tmp_path: Path
) -> None:
    declare(cluster, "digest", write_handler("digest", DIGEST), memory_payload_max_bytes=64 * 2**20)
    path = tmp_path / "volume.raw"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
        for offset in range(0, 3 * 2**30, 2**28):
            file.seek(offset)
            file.write(os.urandom(4096))
    (engine,) = (view.pid for view in cluster.client.engines())
    command = [sys.executable, "-c", dedent(SEND_FILE), str(path), cluster.url, cluster.source_token]
    run = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert run.returncode == 0, run.stderr
    result, source_bytes = run.stdout.split()
    with path.open("rb") as file:
        assert result == hashlib.file_digest(file, "sha256").hexdigest()
    assert int(source_bytes) < 300 * 2**20
    assert _anonymous_bytes(engine) < 300 * 2**20


def _anonymous_bytes(pid: int) -> int:
    """Return the resident memory that no file backs."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell")


def test_slow_messages_after_quick_ones_keep_all_engines_busy(
    cluster: LocalCluster, write_handler: Write, connect: Connect
) -> None:
    declare(cluster, "slow", write_handler("slow", SLOW), engines=4)
    with connect("slow") as connector:
        quick = {"metadata": {"seconds": 0.0}}
        wait_until(lambda: [connector.send(b"quick", **quick) for _ in range(500)] and connector.figures().engines == 4)
        connector.flush("processed", timeout_s=60)
        began = time.monotonic()
        for _ in range(8):
            connector.send(b"slow", metadata={"seconds": 0.5})
        connector.flush("processed", timeout_s=60)
        took_s = time.monotonic() - began
    assert took_s < 2.5 * (8 * 0.5 / 4), "on one engine it takes four times the ideal"
