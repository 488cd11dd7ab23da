"""Two messages of the same id and size with other bytes: only the first counts, and the second is told so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import HandlerFailed
from harmonicio.core.stream import StreamDeclaration
from harmonicio.haste.feature_db.base import RowFilter
from harmonicio.haste.feature_db.master import MasterFeatureDatabase
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until

HANDLER = """
    from harmonicio.engine import handler

    @handler
    def features(message):
        return {"focus": 0.4}
"""


@pytest.mark.row("S27")
@pytest.mark.parametrize("route", ["engine", "backlog"])
def test_a_message_whose_id_is_known_with_other_bytes_is_dead_and_not_taken_for_the_first(
    cluster: LocalCluster,
    connect: Callable[..., StreamConnector],
    write_handler: Callable[[str, str], Path],
    tmp_path: Path,
    route: str,
) -> None:
    tiers = {name: {"folder": str(tmp_path / "tiers" / name)} for name in ("kept", "unscored")}
    function, policy = {"name": "feature", "feature": "focus"}, {"intervals": [[0, 1, "kept"]]}
    haste = {"function": function, "policy": policy, "tiers": tiers}
    handler = write_handler("features", HANDLER)
    stream = StreamDeclaration("s", handler=str(handler), engines=1, plugins={"haste": haste})

    def run_engines(count: int) -> None:
        cluster.declare(replace(stream, engines=count))
        wait_until(lambda: cluster.client.stream("s").running == count, 30)

    run_engines(1)
    with connect("s", patience_s=60.0) as source:
        assert source.send(b"the first", message_id="m1").result(20)["tier"] == "kept"
    with connect("s", patience_s=60.0 if route == "engine" else 0.0) as source:
        if route == "backlog":
            run_engines(0)
        second = source.send(b"THE OTHER", message_id="m1")
        if route == "backlog":
            wait_until(lambda: second.is_safe, 20)
            run_engines(1)
        with pytest.raises(HandlerFailed, match="known with other bytes"):
            second.result(20)
        wait_until(lambda: cluster.client.dead_letters("s").total == 1, 20)
    (row,) = MasterFeatureDatabase(cluster.client).rows(RowFilter("s", message_id="m1"))
    assert Path(tiers["kept"]["folder"], row.location).read_bytes() == b"the first"
