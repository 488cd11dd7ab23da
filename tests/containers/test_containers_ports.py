"""A worker that serves other hosts: its engines are reached at ports of its own address, and give them back."""

from __future__ import annotations

import socket
from pathlib import Path

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.containers.docker_host import DockerHost, bridge_address
from harmonicio.worker.options import WorkerOptions


def test_engines_of_a_worker_beyond_loopback_are_published_at_its_address_only_and_their_ports_come_back(
    tmp_path: Path, docker_settings: DockerSettings, docker_host: DockerHost, images: None
) -> None:
    host = bridge_address(docker_settings)
    worker = WorkerOptions(
        "w",
        tmp_path / "cluster" / "worker",
        tmp_path / "cluster" / "scratch",
        max_engines=2,
        runtime="docker",
        host=host,
        is_insecure=True,
        docker=docker_settings,
    )
    with LocalCluster(tmp_path / "cluster", worker=worker) as cluster:
        cluster.declare(StreamDeclaration("s", image="harmonicio/echo", engines=2))
        cluster.wait_for_engines("s", 2)
        engines = cluster.client.engines()
        addresses = [each.address for each in engines]
        assert {each.host for each in addresses if each} == {host}
        assert len({each.port for each in addresses if each} - {8712}) == 2
        for each in engines:
            ports = docker_host.inspect(f"harmonicio-{each.engine}")["NetworkSettings"]["Ports"]
            assert [bound["HostIp"] for bound in ports["8712/tcp"]] == [host]
        with StreamConnector("s", master=cluster.url, token=cluster.source_token, patience_s=60.0) as connector:
            delivery = connector.send(b"hello")
            assert (delivery.result(30)["size_bytes"], delivery.route) == (5, "engine")
        cluster.client.scale_stream("s", 0)
        wait_until(lambda: not cluster.client.engines(), 30)
        for address in addresses:
            assert address is not None
            wait_until(lambda address=address: _is_free(host, address.port), 10)


def _is_free(host: str, port: int) -> bool:
    """Whether somebody else can have the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
