"""Containers outlive their controller, and a controller outlives its Docker engine."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benches.docker_engine import DockerEngine
from benches.roles import Roles
from harmonicio.control.client import MasterClient
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import Delivery, StreamConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.containers.container_plan import LABEL_WORKER
from harmonicio.worker.containers.docker_host import DockerHost, bridge_address

MESSAGES, ENGINES = 200, 2
HANDLER = """
    import time
    from harmonicio.engine import handler

    @handler
    def slow(message):
        time.sleep(0.02)
        return message.id
"""


@pytest.fixture
def roles(docker_url: str, tmp_path: Path) -> Roles:
    """Master and worker as commands; the worker runs engines in containers."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = one.getsockname()[1], other.getsockname()[1]
    bridge = bridge_address(DockerSettings(url=docker_url))
    return Roles(
        tmp_path / "home",
        *ports,
        WORKER_RUNTIME="docker",
        MASTER_BRIDGE_HOST=bridge,
        DOCKER_MASTER_HOST=bridge,
        DOCKER_IMAGES="harmonicio-test/*",
    )


@pytest.fixture
def slow(roles: Roles, engine_image: Callable[[str, str], str]) -> Iterator[MasterClient]:
    """A running master with a stream of two slow engines."""
    image = engine_image("slow", HANDLER)
    with ExitStack() as stack:
        stack.enter_context(roles.running("master"))
        wait_until(roles.is_up, 20)
        client = stack.enter_context(roles.client())
        client.declare_stream(StreamDeclaration("slow", image=image, engines=ENGINES))
        yield client


def ours(host: DockerHost, roles: Roles) -> dict[str, str]:
    """Return the containers of the worker: engine to container id."""
    identity = (roles.worker_folder / "worker.lock").read_text()
    return {each["Names"][0]: each["Id"] for each in host.containers({LABEL_WORKER: identity})}


def are_ready(client: MasterClient) -> bool:
    return client.stream("slow").running == ENGINES


def send_all(connector: StreamConnector) -> list[Delivery]:
    return [connector.send(bytes(50_000), message_id=f"m{number}") for number in range(MESSAGES)]


def test_a_controller_that_was_killed_adopts_its_containers_and_no_message_is_lost(
    roles: Roles, slow: MasterClient, docker_host: DockerHost
) -> None:
    with StreamConnector("slow", master=roles.url, token=roles.token("source")) as connector:
        with roles.running("worker") as worker:
            wait_until(lambda: are_ready(slow), 30)
            before, engines_before = ours(docker_host, roles), {each.engine for each in slow.engines()}
            deliveries = send_all(connector)
            deliveries[MESSAGES // 4].result(60)
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        assert ours(docker_host, roles) == before
        deliveries[MESSAGES // 2].result(60)  # Engines go on without their controller.
        with roles.running("worker"):
            wait_until(lambda: {each.engine for each in slow.engines() if each.address} == engines_before, 30)
            assert [each.result(60) for each in deliveries] == [f"m{number}" for number in range(MESSAGES)]
            assert ours(docker_host, roles) == before
            assert {each.engine: each.failed for each in slow.engines()} == dict.fromkeys(engines_before, 0)
    assert ours(docker_host, roles) == {}


def test_what_a_cut_off_start_left_behind_is_removed_and_nothing_else(
    roles: Roles, slow: MasterClient, docker_host: DockerHost, base_image: str
) -> None:
    with roles.running("worker"):
        wait_until(lambda: are_ready(slow), 30)
    identity = (roles.worker_folder / "worker.lock").read_text()
    plan = {"Image": base_image, "Cmd": ["sleep", "600"]}
    left = docker_host.create("left-behind", plan | {"Labels": {LABEL_WORKER: identity, "io.harmonicio.engine": "e-1"}})
    other = docker_host.create("of-others", plan | {"Labels": {LABEL_WORKER: "0123", "io.harmonicio.engine": "e-1"}})
    try:
        with roles.running("worker"):
            wait_until(lambda: are_ready(slow), 30)
            assert left not in ours(docker_host, roles).values()
            assert docker_host.inspect(other)["Id"] == other
    finally:
        docker_host.remove(other)
        docker_host.remove(left)


@pytest.mark.allow_leaks(reason="the Docker engine that runs afterwards is the one of all tests")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_docker_engine_that_is_restarted_is_found_again_and_no_message_is_lost(
    roles: Roles, slow: MasterClient, docker_host: DockerHost, own_engine: DockerEngine | None, how: signal.Signals
) -> None:
    if own_engine is None:
        pytest.skip("the Docker engine of this machine is not ours to restart")
    with (
        roles.running("worker") as worker,
        StreamConnector("slow", master=roles.url, token=roles.token("source")) as connector,
    ):
        wait_until(lambda: are_ready(slow), 30)
        deliveries = send_all(connector)
        deliveries[MESSAGES // 4].result(60)
        own_engine.stop(how)
        own_engine.start()
        assert [each.result(90) for each in deliveries] == [f"m{number}" for number in range(MESSAGES)]
        wait_until(lambda: are_ready(slow), 60)
        assert len(ours(docker_host, roles)) == ENGINES
        assert worker.poll() is None
    assert ours(docker_host, roles) == {}
