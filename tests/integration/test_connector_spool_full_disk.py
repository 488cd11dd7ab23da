"""A spool on a disk that is full to the last byte: what is new is refused, what is there is sent, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benches import small_disk
from harmonicio.core.errors import MasterUnavailable, MessageRejected, StorageError
from harmonicio.core.message import Outcome, RejectReason
from harmonicio.testing.bare_receivers import BareCluster
from harmonicio.wire.events import IncomingMessage


@pytest.fixture
def cluster() -> Iterator[BareCluster]:
    with BareCluster() as running:
        running.master.error = MasterUnavailable("The master at http://127.0.0.1:1 does not answer.")
        yield running


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[small_disk.Disk]:
    small_disk.check_mounts()
    with small_disk.Disk("4m", tmp_path / "disk") as mounted:
        yield mounted


def test_a_full_disk_refuses_what_is_new_and_gives_out_what_is_there(
    cluster: BareCluster, disk: small_disk.Disk
) -> None:
    with cluster.connect(spool=disk.seen_from_outside, byte_budget_bytes=100_000) as connector:
        kept = [connector.send(bytes([number]) * 300_000) for number in range(3)]
        disk.fill()
        with pytest.raises(StorageError, match="cannot be written: No space left on device") as caught:
            connector.send(bytes(300_000))
        assert str(disk.seen_from_outside) in str(caught.value)
        assert connector.figures().spooled == 3
        cluster.master.error = None
        connector.flush("safe", timeout_s=20)
        assert connector.figures().spooled == 0
        disk.free()
        again = connector.send(b"again")
        connector.flush("safe", timeout_s=20)
    expected = {each.message_id: bytes([number]) * 300_000 for number, each in enumerate(kept)}
    assert dict(cluster.backlog.messages) == {**expected, again.message_id: b"again"}


def test_what_cannot_be_put_aside_on_a_full_disk_stays_where_it_is(cluster: BareCluster, disk: small_disk.Disk) -> None:
    def refuse(_: IncomingMessage) -> Outcome:
        return Outcome.rejected(RejectReason.TOO_LARGE, "It is too large.")

    connector = cluster.connect(spool=disk.seen_from_outside)
    connector.send(bytes(300_000), message_id="large")
    connector.close(timeout_s=0)
    disk.fill()
    cluster.master.error = None
    cluster.engine(refuse)
    with pytest.raises(MessageRejected, match="too large"), cluster.connect(spool=disk.seen_from_outside) as again:
        again.flush("safe", timeout_s=20)
    folder = disk.seen_from_outside / "images"
    assert len(list(folder.glob("*.segment"))) == 1
    disk.free()
    with pytest.raises(MessageRejected, match="too large"), cluster.connect(spool=disk.seen_from_outside) as again:
        again.flush("safe", timeout_s=20)
    assert len(list((folder / "aside").glob("*.segment"))) == 1
    assert "message 'large' could not be sent" in next((folder / "aside").glob("*.txt")).read_text()
