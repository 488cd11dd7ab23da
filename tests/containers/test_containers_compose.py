"""The cluster of deploy/compose: master and worker in containers, engines started beside them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from benches.compose import FILE, ComposeCluster, commands, obstacle
from harmonicio.stream_connector import StreamConnector
from harmonicio.worker.containers.docker_host import DockerHost

IS_CI = os.environ.get("CI") == "true"
UP_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def composes() -> list[tuple[str, ...]]:
    """Every compose of this machine."""
    if reason := obstacle():
        (pytest.fail if IS_CI else pytest.skip)(reason)
    return commands()


@pytest.fixture(scope="module")
def settings(docker_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the administrator of this host sets for the compose file."""
    if not docker_url.startswith("unix://"):
        pytest.skip("the Docker engine has no socket on this host")
    docker_socket = docker_url.removeprefix("unix://")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [str(each.getsockname()[1]) for each in (one, other)]
    return {
        "COMPOSE_PROJECT_NAME": f"harmonicio-test-{os.getpid()}",
        "DOCKER_SOCKET": docker_socket,
        "DOCKER_GID": str(os.stat(docker_socket).st_gid),
        "WORKER_FOLDER": str(tmp_path_factory.mktemp("w") / "worker"),
        "MASTER_PORT": ports[0],
        "MASTER_DATA_PORT": ports[1],
    }


@pytest.fixture(scope="module")
def cluster(
    composes: list[tuple[str, ...]], images: None, docker_url: str, settings: dict[str, str]
) -> Iterator[ComposeCluster]:
    """The cluster, up; started once for all tests of this file."""
    running = ComposeCluster(composes[0], docker_url, settings)
    try:
        running.run("up", "-d")
        yield running
    finally:
        running.run("down", "-v")


def test_every_compose_of_this_machine_takes_the_file(
    composes: list[tuple[str, ...]], docker_url: str, settings: dict[str, str]
) -> None:
    for command in composes:
        ComposeCluster(command, docker_url, settings).run("config", "-q")
        without = {**settings, "DOCKER_GID": ""}
        refused = ComposeCluster(command, docker_url, without).attempt("config", "-q")
        assert refused.returncode != 0 and "DOCKER_GID" in refused.stderr


def test_master_and_worker_become_healthy(cluster: ComposeCluster, wait_until: Callable[..., object]) -> None:
    def are_healthy() -> bool:
        states = {name: container["State"] for name, container in cluster.containers().items()}
        return all(states[name]["Health"]["Status"] == "healthy" for name in ("master", "worker"))

    wait_until(are_healthy, UP_WITHIN_S)
    assert "runs 0 of " in cluster.run("exec", "-T", "worker", "harmonicio", "worker", "check")


@pytest.mark.row("S26")
def test_they_are_ordinary_users_who_cannot_change_what_they_are_made_of(cluster: ComposeCluster) -> None:
    found = cluster.containers()
    for name in ("master", "worker"):
        confinement = found[name]["HostConfig"]
        assert found[name]["Config"]["User"] == "10001:10001"
        assert (confinement["ReadonlyRootfs"], confinement["CapDrop"]) == (True, ["ALL"])
        assert confinement["SecurityOpt"] == ["no-new-privileges:true"]
    bound = [each for ports in found["master"]["HostConfig"]["PortBindings"].values() for each in ports]
    assert {each["HostIp"] for each in bound} == {"127.0.0.1"}


@pytest.mark.row("S20")
def test_the_worker_has_its_own_token_and_no_other(cluster: ComposeCluster, settings: dict[str, str]) -> None:
    within_worker = ("exec", "-T", "worker")
    tokens = cluster.run(*within_worker, "find", settings["WORKER_FOLDER"], "-name", "*.token").split()
    assert tokens == [f"{settings['WORKER_FOLDER']}/tokens/worker.token"]
    refused = cluster.attempt(*within_worker, "harmonicio", "token", "ls")
    assert refused.returncode != 0 and "no token" in refused.stderr
    told = json.dumps([each["Config"]["Env"] for each in cluster.containers().values()])
    assert "hio_" not in told, "secrets are in no environment"


def test_a_source_on_this_host_reaches_backlog_and_engines(cluster: ComposeCluster) -> None:
    declaration = '[streams.plates]\nimage = "harmonicio/echo"\nengines = 0\n'
    cluster.administer("stream", "apply", "/dev/stdin", stdin=declaration)
    token = cluster.administer("token", "create", "microscope").strip()
    connect = partial(StreamConnector, "plates", master=cluster.master_url, token=token)
    with connect() as source:
        waiting = source.send(b"first", metadata={"well": "B03"})
        source.wait_until_safe([waiting])
        cluster.administer("stream", "scale", "plates", "1")
        assert waiting.result(UP_WITHIN_S) == {"size_bytes": 5, "metadata": {"well": "B03"}}
    with connect(patience_s=UP_WITHIN_S) as source:
        direct = source.send(b"second!")
        assert direct.result(UP_WITHIN_S) == {"size_bytes": 7, "metadata": {}}
    assert (waiting.route, direct.route) == ("backlog", "engine")


def test_the_stream_beside_the_file_takes_a_file_from_within_the_network(cluster: ComposeCluster) -> None:
    cluster.administer("stream", "apply", "/dev/stdin", stdin=(FILE.parent / "streams.toml").read_text())
    sent = cluster.administer("send", "echo", "/etc/hostname", "--timeout-s", "60", "--json")
    (row,) = json.loads(sent)
    assert (row["state"], row["result"]["metadata"]) == ("done", {"name": "hostname"})


def test_engines_are_confined_to_the_network_of_the_file_and_to_the_worker_s_user(
    cluster: ComposeCluster, docker_host: DockerHost
) -> None:
    for each in cluster.engines():
        found = docker_host.inspect(f"harmonicio-{each}")
        assert list(found["NetworkSettings"]["Networks"]) == [cluster.name]
        assert found["Config"]["User"] == "10001:10001"
        assert cluster.settings["DOCKER_SOCKET"] not in json.dumps(found["HostConfig"])


def test_nothing_is_left_when_it_is_taken_down(cluster: ComposeCluster, settings: dict[str, str]) -> None:
    engines = cluster.engines()
    assert len(engines) == 2 and len(cluster.left_behind(engines)) >= 6
    cluster.run("down", "-v")
    assert cluster.left_behind(engines) == []
    assert not any(Path(settings["WORKER_FOLDER"], "worker", "engines").iterdir())
