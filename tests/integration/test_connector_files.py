"""A connector that sends files: of all sizes, changed meanwhile, and in little memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonicio.core.errors import MessageRejected
from harmonicio.testing.bare_receivers import BareCluster, done


@pytest.fixture
def cluster() -> Iterator[BareCluster]:
    with BareCluster() as running:
        yield running


def test_files_of_all_sizes_arrive_and_may_be_removed_at_once(cluster: BareCluster, tmp_path: Path) -> None:
    engine = cluster.engine()
    contents = [b"", b"small", os.urandom(1024**2), os.urandom(1024**2 + 1), os.urandom(7_000_000)]
    with cluster.connect(patience_s=60.0) as connector:
        for number, content in enumerate(contents):
            path = tmp_path / f"{number}.raw"
            path.write_bytes(content)
            connector.send_file(path)
            path.unlink()
        connector.flush("processed", timeout_s=20)
    assert [payload for _, payload in engine.messages] == contents


def test_a_file_that_becomes_shorter_is_rejected_and_others_go_on(cluster: BareCluster, tmp_path: Path) -> None:
    engine = cluster.engine(window=1)
    path = tmp_path / "volume.raw"
    path.write_bytes(bytes(40_000_000))
    blocked = threading.Event()
    engine.answer = lambda message: done(message) if blocked.wait(20) else None
    with cluster.connect(patience_s=60.0) as connector:
        connector.send(b"first")
        shrinking = connector.send_file(path)
        os.truncate(path, 10_000_000)
        blocked.set()
        with pytest.raises(MessageRejected, match="became shorter"):
            shrinking.result(20)
        assert connector.send(b"image").result(20) in (5, None)


def test_a_file_that_becomes_longer_is_rejected_and_never_arrives(cluster: BareCluster, tmp_path: Path) -> None:
    path = tmp_path / "volume.raw"
    path.write_bytes(bytes(40_000_000))
    blocked = threading.Event()
    engine = cluster.engine(lambda message: done(message) if blocked.wait(20) else None, window=1)
    with cluster.connect(patience_s=60.0) as connector:
        connector.send(b"first")
        growing = connector.send_file(path)
        with path.open("ab") as file:
            file.write(b"more")
        blocked.set()
        with pytest.raises(MessageRejected, match="changed while it was sent"):
            growing.result(20)
    assert growing.message_id not in [message.id for message in engine.seen + cluster.backlog.seen]


SEND_LARGE_FILE = """
import resource, sys
from harmonicio.control.messages import BacklogAccess, Lease, LeaseGrant
from harmonicio.core.lease import Address
from harmonicio.stream_connector import StreamConnector

class Client:
    url = "http://127.0.0.1:1"
    def request_leases(self, request):
        address = Address("127.0.0.1", int(sys.argv[1]))
        return LeaseGrant((Lease("l", "e", address, "t", 60.0),), BacklogAccess(address, "t", 60.0), "engine", 9.0)
    def release_leases(self, held): pass
    def close(self): pass

with StreamConnector(stream="images", client=Client(), patience_s=60.0) as connector:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert connector.send_file(sys.argv[2]).result(60) == int(sys.argv[3])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_file_of_300_megabytes_takes_few_megabytes_of_memory(cluster: BareCluster, tmp_path: Path) -> None:
    engine = cluster.engine(is_keeping=False)
    path = tmp_path / "volume.raw"
    with path.open("wb") as file:
        file.truncate(300_000_000)
    command = [sys.executable, "-c", SEND_LARGE_FILE, str(engine.address.port), str(path), "300000000"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 20_000, "kilobytes of memory"
