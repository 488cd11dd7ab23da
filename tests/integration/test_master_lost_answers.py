"""An answer of the master that never arrives costs nobody an engine."""

from __future__ import annotations

from pathlib import Path

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import LeaseGrant, LeaseRequest
from harmonicio.core.errors import MasterUnavailable
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector


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
