"""Engines that die at every stage of a message: it is processed all the same, with one row and one copy."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent

import pytest

from benches.auditor import PROCESSED, Auditor
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.stream import StreamDeclaration
from harmonicio.haste.feature_db.base import RowFilter
from harmonicio.haste.feature_db.master import MasterFeatureDatabase
from harmonicio.stream_connector import Delivery, StreamConnector

#: Each befalls the engine of a stream of its own once, with the message that carries its name.
HANDLER = """
    import ctypes, os, resource, signal
    from pathlib import Path
    from harmonicio.engine import handler
    from harmonicio.engine.answers import Answers
    from harmonicio.haste.storage_client import StorageClient

    def die(*given, **more):
        os.kill(os.getpid(), signal.SIGKILL)

    def commit_and_die(client, row, commit=StorageClient._commit):
        commit(client, row)
        die()

    def starve():
        resource.setrlimit(resource.RLIMIT_AS, (2**27, 2**27))
        raise MemoryError(len(bytes(2**30)))

    FAULTS = {
        "killed": die,
        "segfault": lambda: ctypes.string_at(0),
        "aborted": os.abort,
        "exit 0": lambda: os._exit(0),
        "out of memory": starve,
        "before the row": lambda: setattr(StorageClient, "_commit", die),
        "after the row": lambda: setattr(StorageClient, "_commit", commit_and_die),
        "before the answer": lambda: setattr(Answers, "message_handled", die),
    }

    @handler
    def features(message):
        fault = message.metadata.get("fault")
        if fault:
            try:
                (Path(__file__).parent / fault).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                FAULTS[fault]()
        return {"focus": 0.8}
"""
FAULTS = ("killed", "segfault", "aborted", "exit 0", "out of memory", "before the row", "before the answer")
LAST_CHANCE = "after the row"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path / "cluster", max_engines=len(FAULTS)) as running:
        yield running


def declare(cluster: LocalCluster, folder: Path, stream: str, max_crashes: int = 3) -> None:
    haste = {
        "function": {"name": "feature", "feature": "focus"},
        "policy": {"intervals": [[0, 1, "A"]]},
        "tiers": {name: {"folder": str(folder / "tiers" / name)} for name in ("A", "unscored")},
    }
    handler = str(folder / "features.py")
    cluster.declare(StreamDeclaration(stream, handler=handler, max_crashes=max_crashes, plugins={"haste": haste}))


@pytest.mark.timeout(180)
def test_a_message_whose_engine_dies_at_any_stage_is_processed_with_one_row_and_one_copy(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    (tmp_path / "features.py").write_text(dedent(HANDLER))
    streams = {fault: fault.replace(" ", "-") for fault in FAULTS}
    for stream in streams.values():
        declare(cluster, tmp_path, stream)
    auditor = Auditor()
    sent: list[tuple[str, Delivery]] = []
    with ExitStack() as exits:
        for fault, stream in streams.items():
            cluster.wait_for_engines(stream, 1)
            connector = exits.enter_context(StreamConnector(stream, master=cluster.url, token=cluster.source_token))
            for metadata in ({}, {"fault": fault}, {}, {}):
                payload = os.urandom(2000)
                delivery = connector.send(payload, metadata=metadata)
                sent.append((stream, delivery))
                auditor.sent(delivery.message_id, hashlib.sha256(payload).hexdigest())
        for _, delivery in sent:
            delivery.result(timeout_s=60)
            auditor.told_safe(delivery.message_id, "stored or done")
            auditor.told_end(delivery.message_id, PROCESSED)
    for stream in streams.values():
        for row in MasterFeatureDatabase(cluster.client).rows(RowFilter(stream)):
            auditor.found(row.message_id, PROCESSED)
        for copy in (tmp_path / "tiers").glob(f"*/{stream}/*"):
            auditor.effect(copy.name, hashlib.sha256(copy.read_bytes()).hexdigest())
    for figures in cluster.client.backlog():
        for name in ("ready", "reserved", "dead"):
            auditor.gauge(f"{name} of {figures.stream}", getattr(figures, name))
    assert auditor.violations() == []
    assert all((tmp_path / fault).exists() for fault in FAULTS), "each has happened"


def test_a_message_whose_last_engine_dies_after_the_row_is_processed_and_no_dead_letter(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    (tmp_path / "features.py").write_text(dedent(HANDLER))
    declare(cluster, tmp_path, "s", max_crashes=1)
    cluster.wait_for_engines("s", 1)
    with StreamConnector("s", master=cluster.url, token=cluster.source_token) as connector:
        delivery = connector.send(b"cells", metadata={"fault": LAST_CHANCE})
        assert delivery.result(timeout_s=30)["tier"] == "A"
    (row,) = MasterFeatureDatabase(cluster.client).rows(RowFilter("s"))
    assert (row.message_id, row.attempt) == (delivery.message_id, 1)
    assert [(each.dead, each.ready, each.reserved) for each in cluster.client.backlog()] == [(0, 0, 0)]
    assert (tmp_path / LAST_CHANCE).exists()
