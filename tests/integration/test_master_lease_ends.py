"""Leases end on both sides: the directory, the leases and the connections agree afterwards."""

from __future__ import annotations

from pathlib import Path

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import LeaseGrant, LeaseRequest
from harmonicio.core.errors import MasterUnavailable
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import MasterOptions
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until


class DeafClient(MasterClient):
    """Loses the first answers to lease requests on the way back."""

    def __init__(self, url: str, token: str, losses: int) -> None:
        super().__init__(url, token)
        self.losses = losses

    def request_leases(self, request: LeaseRequest) -> LeaseGrant:
        grant = super().request_leases(request)
        if self.losses:
            self.losses -= 1
            raise MasterUnavailable("The connection ended before the answer came.")
        return grant


def test_engines_that_a_lost_answer_granted_are_found_by_the_next_request(tmp_path: Path) -> None:
    with LocalCluster(tmp_path / "cluster", max_engines=1) as cluster:
        cluster.declare(StreamDeclaration("echo", handler="harmonicio.engine.echo"))
        cluster.wait_for_engines("echo", 1)
        client = DeafClient(cluster.url, cluster.source_token, losses=1)
        with StreamConnector(stream="echo", client=client, patience_s=30.0) as connector:
            delivery = connector.send(b"straight to the engine")
            delivery.result(15)
            assert delivery.route == "engine"
            assert client.losses == 0


def test_when_a_connection_was_idle_for_a_term_the_engine_is_free_on_all_sides_and_is_found_again(
    tmp_path: Path,
) -> None:
    options = MasterOptions(tmp_path / "master", port=0, data_port=0, settle_s=0.0, lease_term_s=1.5)
    with LocalCluster(tmp_path / "cluster", max_engines=1, master=options) as cluster:
        cluster.declare(StreamDeclaration("echo", handler="harmonicio.engine.echo"))
        cluster.wait_for_engines("echo", 1)
        with StreamConnector(
            stream="echo", master=cluster.url, token=cluster.source_token, patience_s=30.0
        ) as connector:
            for _ in range(2):
                delivery = connector.send(b"x")
                delivery.result(10)
                assert delivery.route == "engine"
                wait_until(lambda: cluster.client.engines()[0].leases == 1, 2, what="the lease")
                wait_until(lambda: cluster.client.engines()[0].leases == 0, 15, what="the end of the lease")
                (engine,) = cluster.client.engines()
                assert engine.state == "idle"
                assert cluster.client.workers()[0].is_removable
