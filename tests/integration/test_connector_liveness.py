"""A connector on a whole local cluster: it leaves nothing behind, and what dies does not take it along."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import OutcomeTimeout, UndeliveredError
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.stream_connector import connector as connector_module
from harmonicio.testing.bare_receivers import BareCluster
from harmonicio.testing.leaks import Holdings, leaks_since


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path, max_engines=1) as running:
        running.declare(StreamDeclaration("images", handler="harmonicio.engine.echo", engines=1))
        running.wait_for_engines("images", 1)
        yield running


def connect(cluster: LocalCluster) -> StreamConnector:
    return StreamConnector(stream="images", master=cluster.url, token=cluster.source_token)


def test_a_hundred_connectors_in_a_row_leave_nothing_behind(cluster: LocalCluster) -> None:
    with connect(cluster) as first:
        first.send(b"image").result(20)
    before = Holdings.now()
    for _ in range(100):
        with connect(cluster) as connector:
            assert connector.send(b"image").result(20)["size_bytes"] == 5
    assert leaks_since(before) == []


def test_when_the_only_engine_is_killed_everything_is_processed_all_the_same(cluster: LocalCluster) -> None:
    (pid,) = (view.pid for view in cluster.client.engines() if view.pid)
    with connect(cluster) as connector:
        deliveries = [connector.send(os.urandom(200_000)) for _ in range(100)]
        os.kill(pid, signal.SIGKILL)
        deliveries += [connector.send(os.urandom(200_000)) for _ in range(100)]
        connector.flush("processed", timeout_s=60)
        assert connector.figures().processed == 200
        assert [each.result(1)["size_bytes"] for each in deliveries] == [200_000] * 200


# ── a master that is not there ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def absent_url() -> Iterator[str]:
    """Where nobody listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


def test_errors_name_the_address_of_a_master_that_is_not_there(absent_url: str) -> None:
    connector = StreamConnector(stream="images", master=absent_url, token="t")
    connector.send(b"image")
    with pytest.raises(OutcomeTimeout, match=absent_url):
        connector.flush("safe", timeout_s=0.2)
    with pytest.raises(UndeliveredError, match=absent_url) as caught:
        connector.close(timeout_s=0.2)
    assert len(caught.value.message_ids) == 1


def test_a_close_that_waits_says_for_what(
    absent_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connector_module, "TELL_AFTER_S", 0.2)
    monkeypatch.setattr(connector_module, "CLOSE_WITHIN_S", 0.5)
    with (
        pytest.raises(KeyError) as caught,
        StreamConnector(stream="images", master=absent_url, token="t") as connector,
    ):
        connector.send(b"image")
        raise KeyError("an error of the source")
    assert "1 messages of stream 'images' are not safe yet; closing waits 0 s more." in caplog.text
    assert absent_url in caplog.text
    assert absent_url in caught.value.__notes__[0]


# ── a source that is interrupted ─────────────────────────────────────────────────────────────────────────────────────


def test_an_interrupt_in_the_middle_of_sending_many_ends_soon_and_says_what_is_not_safe() -> None:
    with BareCluster() as cluster:
        cluster.engine(lambda _: None, window=2)
        cluster.backlog.window = 0
        interrupt = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        sent, began_s = 0, time.monotonic()
        with pytest.raises(KeyboardInterrupt) as caught, cluster.connect(byte_budget_bytes=4096) as connector:
            interrupt.start()
            for _ in connector.send_many(bytes(512) for _ in range(1000)):
                sent += 1
            pytest.fail("it was not interrupted")
        interrupt.join()
        assert time.monotonic() - began_s < 5
        assert sent == 8, "as much as the byte budget takes"
        assert "messages of stream 'images' were not safe" in caught.value.__notes__[0]
        assert not [each for each in threading.enumerate() if each.name.startswith(connector.source)]
