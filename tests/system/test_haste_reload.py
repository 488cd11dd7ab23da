"""A policy or an interestingness function is declared anew while messages are under way: each row says what decided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import ConfigurationError
from harmonicio.core.stream import StreamDeclaration
from harmonicio.haste.feature_db.base import FeatureRow, RowFilter
from harmonicio.haste.feature_db.master import MasterFeatureDatabase
from harmonicio.stream_connector import Delivery, StreamConnector
from harmonicio.testing.waiting import wait_until

FOCUS = """
    import time
    from harmonicio.engine import handler

    @handler
    def features(message):
        time.sleep(0.005)
        return {"focus": 0.4}
"""
KEEP, DISCARD = [[0, 1, "kept"]], [[0, 0.5, "other"], [0.5, 1, "kept"]]
UNUSABLE: list[tuple[list[object], str]] = [
    ([[0, 1, "nowhere"]], "'nowhere', which is not declared"),
    ([[0, 0.6, "kept"], [0.5, 1, "other"]], "overlap"),
    ([[0, 0.5, "kept"]], "1"),
]


class Instrument:
    """A source that never rests, by both routes."""

    def __init__(self, connect: Callable[..., StreamConnector]) -> None:
        self.sent: list[Delivery] = []
        self._connect = connect
        self._is_over = Event()
        self._thread = Thread(target=self._run)

    def _run(self) -> None:
        with self._connect("s") as by_engines, self._connect("s", patience_s=0.0) as by_backlog:
            while not self._is_over.wait(0.03):
                self.sent += [each.send(b"image %d" % len(self.sent)) for each in (by_engines, by_backlog)]

    def __enter__(self) -> Instrument:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


@pytest.fixture
def declare(
    cluster: LocalCluster, write_handler: Callable[[str, str], Path], tmp_path: Path
) -> Callable[..., StreamDeclaration]:
    """Declare the stream with a policy and a function."""
    handler = write_handler("features", FOCUS)

    def declared(intervals: list[object], function: dict[str, str]) -> StreamDeclaration:
        tiers = {name: {"folder": str(tmp_path / "tiers" / name)} for name in ("kept", "other", "unscored")}
        haste = {"function": function, "policy": {"intervals": intervals}, "tiers": tiers}
        stream = StreamDeclaration("s", handler=str(handler), engines=2, max_attempts=2, plugins={"haste": haste})
        return cluster.client.declare_stream(stream)

    return declared


def test_what_is_declared_anew_under_load_counts_from_then_on_and_what_cannot_be_used_changes_nothing(
    cluster: LocalCluster,
    connect: Callable[..., StreamConnector],
    declare: Callable[..., StreamDeclaration],
    write_handler: Callable[[str, str], Path],
) -> None:
    database = MasterFeatureDatabase(cluster.client)
    scores = write_handler("scores", "def high(features):\n    return features['focus'] + 0.5\n")

    def rows(version: int = 0) -> list[FeatureRow]:
        return [row for row in database.rows(RowFilter("s")) if version in (0, row.stream_version)]

    declare(KEEP, {"name": "feature", "feature": "focus"})
    cluster.wait_for_engines("s", 2)
    with Instrument(connect) as instrument:
        wait_until(lambda: len(rows()) > 20, 30)
        assert declare(DISCARD, {"name": "feature", "feature": "focus"}).version == 2
        wait_until(lambda: len(rows(2)) > 20, 60, what="rows of the second policy")
        for intervals, complaint in UNUSABLE:
            with pytest.raises(ConfigurationError, match=complaint):
                declare(intervals, {"name": "feature", "feature": "focus"})
        assert cluster.client.stream("s").declaration.version == 2
        assert declare(DISCARD, {"name": f"{scores}:high"}).version == 3
        wait_until(lambda: len(rows(3)) > 20, 60, what="rows of the other function")
        broken = write_handler("broken", "raise RuntimeError('a mistake')\n")
        assert declare(DISCARD, {"name": f"{broken}:high"}).version == 4
        wait_until(lambda: "a mistake" in str(cluster.client.workers()), 60, what="what is wrong to be said")
        before = len(rows(3))
        wait_until(lambda: len(rows(3)) > before + 20, 60, what="engines of the version before to go on")
        assert declare(DISCARD, {"name": f"{scores}:high"}).version == 5
        wait_until(lambda: rows(5), 60, what="rows of the version that is mended")
    wait_until(lambda: len(rows()) == len(instrument.sent), 120, what="what waits to be processed")
    found = rows()
    assert sorted(row.message_id for row in found) == sorted(each.message_id for each in instrument.sent)
    assert [each.dead for each in cluster.client.backlog()] == [0]
    assert {(row.stream_version, row.score, row.tier) for row in found} == {
        (1, 0.4, "kept"),
        (2, 0.4, "other"),
        (3, 0.9, "kept"),
        (5, 0.9, "kept"),
    }
    assert len({(row.policy_version, row.function) for row in found}) == 3
