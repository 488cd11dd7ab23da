"""The same message id again: at the same moment, and long after."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harmonicio.core.errors import OutcomeExpired, StorageError
from harmonicio.stream_connector.delivery import Delivery
from harmonicio.stream_connector.spool.disk import SegmentFile, SpoolDisk
from harmonicio.testing.bare_receivers import BareCluster
from harmonicio.testing.waiting import wait_until


@pytest.fixture
def cluster() -> Iterator[BareCluster]:
    with BareCluster() as running:
        yield running


def test_a_second_copy_that_comes_while_the_first_one_fails_is_sent_itself(
    cluster: BareCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = cluster.engine()
    is_writing, may_fail = threading.Event(), threading.Event()
    write = SpoolDisk.write

    def fail_once(self: SpoolDisk, file: SegmentFile, offset: int, buffers: Sequence[bytes | memoryview]) -> None:
        if not is_writing.is_set():
            is_writing.set()
            may_fail.wait(10)
            raise OSError(28, "No space left on device")
        write(self, file, offset, buffers)

    monkeypatch.setattr(SpoolDisk, "write", fail_once)
    ends: list[Delivery | StorageError] = []

    def send() -> None:
        try:
            ends.append(connector.send(b"image", message_id="plate-1"))
        except StorageError as error:
            ends.append(error)

    with cluster.connect(spool=tmp_path) as connector:
        first, second = threading.Thread(target=send), threading.Thread(target=send)
        first.start()
        assert is_writing.wait(10)
        second.start()
        second.join(0.2)
        assert second.is_alive(), "nobody knows yet whether the first one is kept"
        may_fail.set()
        first.join(10)
        second.join(10)
        (refused,) = [each for each in ends if isinstance(each, StorageError)]
        (delivery,) = [each for each in ends if isinstance(each, Delivery)]
        assert "No space left" in str(refused)
        delivery.result(10)
    assert engine.messages == [("plate-1", b"image")]


def test_a_repeated_id_of_which_nobody_holds_the_delivery_says_that_it_was_sent_before(cluster: BareCluster) -> None:
    cluster.engine()
    with cluster.connect() as connector:
        connector.send(b"image", message_id="plate-1").result(10)
        gc.collect()
        again = connector.send(b"image", message_id="plate-1")
        wait_until(lambda: again.is_final)
        assert again.is_safe
        with pytest.raises(OutcomeExpired, match="was sent before") as caught:
            again.result(10)
        assert "Hold the delivery" in str(caught.value)
