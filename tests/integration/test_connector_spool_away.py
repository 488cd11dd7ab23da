"""A spooled file that cannot be read now is sent later: only one that has changed is given up."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonicio.core.errors import MasterUnavailable, MessageRejected
from harmonicio.stream_connector.spool.disk import SegmentFile
from harmonicio.testing.bare_receivers import BareCluster
from harmonicio.testing.waiting import wait_until

PLATE = b"\7" * 2_000_000


def away() -> MasterUnavailable:
    """Return an error of its own: one that is kept would keep the frames in which it was raised, and their files."""
    return MasterUnavailable("The master at http://127.0.0.1:1 does not answer.")


@pytest.fixture
def cluster() -> Iterator[BareCluster]:
    with BareCluster() as running:
        yield running


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A folder with two plates; renaming it makes them unreachable for a while."""
    (tmp_path / "share").mkdir()
    for name in ("first", "second"):
        (tmp_path / "share" / name).write_bytes(PLATE)
    return tmp_path / "share"


def test_a_file_that_is_away_for_a_moment_is_sent_later_and_holds_up_nobody(
    cluster: BareCluster, share: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.master.error = away()
    with cluster.connect(spool=tmp_path / "spool") as connector:
        delivery = connector.send_file(share / "first")
        share.rename(tmp_path / "elsewhere")
        cluster.master.error = None
        engine = cluster.engine()
        with caplog.at_level(logging.WARNING):
            connector.send(b"small").result(10)
            wait_until(lambda: "No such file" in caplog.text)
        assert str(share / "first") in caplog.text
        assert not delivery.is_final
        (tmp_path / "elsewhere").rename(share)
        delivery.result(20)
        figures = connector.figures()
        assert figures.spooled == 0
        assert figures.resent == 0
        assert len(engine.messages) == 2, "the connection was not broken, so nothing was sent again"


def test_a_file_that_is_away_when_the_next_connector_opens_is_not_given_up(
    cluster: BareCluster, share: Path, tmp_path: Path
) -> None:
    cluster.master.error = away()
    connector = cluster.connect(spool=tmp_path / "spool")
    ids = [connector.send_file(share / name).message_id for name in ("first", "second")]
    connector.close(timeout_s=0)
    share.rename(tmp_path / "elsewhere")
    cluster.master.error = None
    engine = cluster.engine()
    with cluster.connect(spool=tmp_path / "spool") as again:
        again.send(b"small").result(10)
        assert again.figures().spooled == 2
        (tmp_path / "elsewhere").rename(share)
        again.flush("processed", timeout_s=20)
    assert dict.fromkeys(ids, PLATE).items() <= dict(engine.messages).items()
    assert not list((tmp_path / "spool" / "images" / "aside").iterdir())


def test_a_file_that_is_still_away_stays_in_the_spool_when_the_connector_closes(
    cluster: BareCluster, share: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.engine()
    connector = cluster.connect(spool=tmp_path / "spool", patience_s=60)
    cluster.master.error = away()
    delivery = connector.send_file(share / "first")
    (share / "first").unlink()
    cluster.master.error = None
    assert connector.close(timeout_s=0.5) == 1
    assert f"The file {share / 'first'} cannot be sent" in caplog.text
    assert not delivery.is_safe


def test_a_file_that_has_changed_is_given_up_without_ending_the_connection(
    cluster: BareCluster, share: Path, tmp_path: Path
) -> None:
    cluster.master.error = away()
    with cluster.connect(spool=tmp_path / "spool") as connector:
        changed, same = connector.send_file(share / "first"), connector.send_file(share / "second")
        small = [connector.send(bytes([number])) for number in range(20)]
        (share / "first").write_bytes(b"other")
        cluster.master.error = None
        cluster.engine()
        with pytest.raises(MessageRejected, match="has changed since it was sent"):
            changed.result(20)
        same.result(20)
        for each in small:
            each.result(20)
        assert connector.figures().resent == 0


def test_a_file_that_goes_away_in_the_middle_is_sent_again_from_the_beginning(
    cluster: BareCluster, share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = cluster.engine()
    read, failures = os.preadv, []

    def fail_once(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if offset and not failures:
            failures.append(offset)
            raise OSError(116, "Stale file handle")
        return read(descriptor, buffers, offset)

    with cluster.connect(spool=tmp_path / "spool") as connector:
        monkeypatch.setattr(os, "preadv", fail_once)
        delivery = connector.send_file(share / "first")
        connector.flush("safe", timeout_s=20)
    assert failures
    assert delivery.is_safe
    assert [payload for _, payload in [*engine.messages, *cluster.backlog.messages]] == [PLATE]


def test_what_the_spool_itself_cannot_give_back_for_a_moment_is_not_given_up(
    cluster: BareCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.master.error = away()
    with cluster.connect(spool=tmp_path / "spool", byte_budget_bytes=1000) as connector:
        delivery = connector.send(bytes(30_000))
        read, failures = SegmentFile.read_into, []

        def fail_twice(self: SegmentFile, buffer: memoryview, offset: int) -> int:
            if len(failures) < 2:
                failures.append(offset)
                raise OSError(5, "Input/output error")
            return read(self, buffer, offset)

        monkeypatch.setattr(SegmentFile, "read_into", fail_twice)
        cluster.master.error = None
        connector.flush("safe", timeout_s=20)
        assert delivery.is_safe
    assert len(failures) == 2
