"""Messages that were written in place, when they do not go where shared memory goes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonicio.core.errors import InvalidInput, MasterUnavailable, NotFound, UndeliveredError
from harmonicio.core.message import MAX_MESSAGE_BYTES
from harmonicio.stream_connector import Allocation, StreamConnector
from harmonicio.testing.bare_receivers import BareCluster, done
from harmonicio.testing.waiting import wait_until

SIZES = (1, 5000, 100_000, 3_000_000)


@pytest.fixture
def cluster() -> Iterator[BareCluster]:
    with BareCluster() as running:
        yield running


def written(connector: StreamConnector, payload: bytes) -> Allocation:
    slot = connector.allocate(len(payload))
    assert slot.is_shared
    slot.view[:] = payload
    return slot


def used_bytes(connector: StreamConnector) -> int:
    return connector._slots.used_bytes


def test_over_tcp_they_travel_as_bytes_and_their_slots_come_back(cluster: BareCluster) -> None:
    engine = cluster.engine(done)
    payloads = [os.urandom(size) for size in SIZES]
    with cluster.connect() as connector:
        deliveries = [connector.send(written(connector, payload)) for payload in payloads]
        assert [each.result(20) for each in deliveries] == [len(payload) for payload in payloads]
        assert all(each.released for each in deliveries)
        wait_until(lambda: used_bytes(connector) == 0)
    assert [payload for _, payload in engine.messages] == payloads


def test_in_the_backlog_they_are_what_was_written(cluster: BareCluster) -> None:
    payloads = [os.urandom(size) for size in SIZES]
    with cluster.connect(patience_s=0.0) as connector:
        for payload in payloads:
            connector.send(written(connector, payload))
        connector.flush("safe", timeout_s=20)
        wait_until(lambda: used_bytes(connector) == 0)
    assert [payload for _, payload in cluster.backlog.messages] == payloads


@pytest.mark.parametrize("budget_bytes", [2**28, 2**20], ids=["memory for all", "only on disk"])
def test_with_a_spool_they_are_on_disk_as_any_other(cluster: BareCluster, tmp_path: Path, budget_bytes: int) -> None:
    payloads = [os.urandom(size) for size in (5000, 900_000, 900_000)]
    cluster.master.error = MasterUnavailable("The master at http://127.0.0.1:1 does not answer.")
    with cluster.connect(spool=tmp_path / "spool", patience_s=60.0, byte_budget_bytes=budget_bytes) as connector:
        for payload in payloads:
            slot = connector.allocate(len(payload))
            slot.view[:] = payload
            connector.send(slot)
        del slot
        assert connector.close(timeout_s=0.1) == 3
    cluster.master.error = None
    engine = cluster.engine(done)
    with cluster.connect(spool=tmp_path / "spool") as connector:
        connector.flush("safe", timeout_s=20)
    assert sorted(payload for _, payload in engine.messages) == sorted(payloads)


def test_a_message_that_is_recognised_gives_its_slot_back(cluster: BareCluster) -> None:
    cluster.engine(done)
    with cluster.connect() as connector:
        first = connector.send(written(connector, b"pixels"), message_id="plate 1")
        assert connector.send(written(connector, b"pixels"), message_id="plate 1") is first
        assert first.result(20) == 6
        wait_until(lambda: used_bytes(connector) == 0)


def test_what_cannot_be_sent_stays_the_sources_own(cluster: BareCluster) -> None:
    cluster.engine(done)
    with cluster.connect() as connector:
        slot = written(connector, b"pixels")
        with pytest.raises(InvalidInput):
            connector.send(slot, metadata={"set": {1, 2}})
        slot.view[:] = b"others"
        assert connector.send(slot).result(20) == 6


def test_sizes_that_no_message_has_are_refused(cluster: BareCluster) -> None:
    with cluster.connect() as connector:
        assert len(connector.allocate(0).view) == 0
        for size_bytes in (-1, MAX_MESSAGE_BYTES + 1):
            with pytest.raises(InvalidInput, match="No message has"):
                connector.allocate(size_bytes)


def test_a_connector_that_closes_with_unsafe_messages_leaves_no_memory_behind(cluster: BareCluster) -> None:
    cluster.engine(lambda _: None)
    connector = cluster.connect()
    connector.send(written(connector, bytes(100_000)))
    with pytest.raises(UndeliveredError):
        connector.close(timeout_s=0.1)
    assert not connector.allocate(100).is_shared


def test_a_source_that_may_not_send_has_its_allocation_back(cluster: BareCluster) -> None:
    cluster.master.error = NotFound("There is no stream 'cells'.")
    connector = cluster.connect()
    with connector.allocate(100) as slot:
        slot.view[:5] = b"hello"
        with pytest.raises(NotFound):
            connector.send(slot)
        assert bytes(slot.view[:5]) == b"hello"
    cluster.master.error = None  # Which knows how it was raised, and with what.
    assert used_bytes(connector) == 0
    connector.close()
