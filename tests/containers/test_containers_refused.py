"""What nobody gets who is not in the configuration of the worker's administrator, whatever his token says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control import tickets
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import WorkerRegistration
from harmonicio.core.errors import InvalidInput, NotAllowed
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.roles import Role
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import ContainerNeeds, StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.containers.docker_host import DockerHost
from harmonicio.worker.options import WorkerOptions

ECHO = "harmonicio/echo"
OTHER_DIGEST = f"harmonicio/echo@sha256:{'0' * 64}"
#: In what is asked for: the folder of the Docker engine's own socket, and one that the worker permits.
SOCKET_FOLDER, PERMITTED = "/SOCKET", "/PERMITTED"

#: What is asked for, the declaration that asks, and what the refusal says.
ASKS = {
    "privileged": (ECHO, ContainerNeeds(privileged=True), "docker.privileged"),
    "host network": (ECHO, ContainerNeeds(network="host"), "docker.networks"),
    "process namespace": (ECHO, ContainerNeeds(namespaces=("pid",)), "docker.namespaces"),
    "ipc namespace": (ECHO, ContainerNeeds(namespaces=("ipc",)), "docker.namespaces"),
    "capability": (ECHO, ContainerNeeds(capabilities=("SYS_ADMIN",)), "docker.capabilities"),
    "device": (ECHO, ContainerNeeds(devices=("/dev/null",)), "docker.devices"),
    "host mount": (ECHO, ContainerNeeds(folders=("/etc",)), "docker.folders"),
    "host mount to read": (ECHO, ContainerNeeds(reference_folders=("/etc",)), "docker.folders"),
    "link": (ECHO, ContainerNeeds(reference_folders=(f"{PERMITTED}/link",)), "is a link"),
    "worker's folder": (
        ECHO,
        ContainerNeeds(reference_folders=(f"{PERMITTED}/cluster/worker",)),
        "the worker's own folder",
    ),
    "scratch of others": (ECHO, ContainerNeeds(folders=(f"{PERMITTED}/cluster/scratch/x",)), "the worker's own folder"),
    "engine socket": (ECHO, ContainerNeeds(reference_folders=(SOCKET_FOLDER,)), "socket of the Docker engine"),
    "image outside the list": ("other/echo", ContainerNeeds(), "docker.images"),
    "changed digest": (OTHER_DIGEST, ContainerNeeds(), "It has changed"),
}
#: The roles of tokens that are not an administrator's.
OTHERS = (Role.SOURCE, Role.WORKER, Role.ENGINE, Role.VIEWER)


@contextmanager
def running(folder: Path, settings: DockerSettings) -> Iterator[LocalCluster]:
    worker = WorkerOptions(
        "local", folder / "worker", folder / "scratch", max_engines=2, runtime="docker", docker=settings
    )
    with LocalCluster(folder, worker=worker) as cluster:
        yield cluster


@pytest.fixture
def strict(tmp_path: Path, docker_settings: DockerSettings, images: None) -> Iterator[LocalCluster]:
    """A worker whose administrator permits an image, the folder of the test and that of the Docker engine's socket."""
    socket_folder = str(Path(docker_settings.url.removeprefix("unix://")).parent.resolve())
    settings = replace(
        docker_settings, images=("harmonicio/*",), folders=(str(tmp_path), socket_folder), pull_timeout_s=0.0
    )
    with running(tmp_path / "cluster", settings) as cluster:
        yield cluster


def declaration(ask: str, url: str, permitted: Path) -> StreamDeclaration:
    """Return a declaration that asks for something, with the places of this test."""
    image, needs, _ = ASKS[ask]
    socket_folder = str(Path(url.removeprefix("unix://")).parent.resolve())
    if ask == "link":
        (permitted / "link").symlink_to("/etc")

    def here(folders: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(each.replace(PERMITTED, str(permitted)).replace(SOCKET_FOLDER, socket_folder) for each in folders)

    needs = replace(needs, folders=here(needs.folders), reference_folders=here(needs.reference_folders))
    return StreamDeclaration("s", image=image, container=needs)


def bearer(cluster: LocalCluster, role: Role) -> str:
    """Return what proves a role: a token, or an engine's ticket."""
    if role is not Role.ENGINE:
        return cluster.token(role)
    with MasterClient(cluster.url, cluster.token(Role.WORKER)) as client:
        key = client.register_worker(WorkerRegistration("w-1", "here", 1, "process", "0")).ticket_key
    claims = Claims(TicketKind.ENGINE, "s", 600.0, issued_at=time.time(), epoch=0, engine="e-1")
    return tickets.engine_bearer("w-1", "e-1", tickets.sign(tickets.derive_key(key, "engine", "e-1"), claims))


@pytest.mark.parametrize("role", OTHERS)
def test_nobody_but_an_administrator_declares_anything(
    strict: LocalCluster, docker_url: str, tmp_path: Path, role: Role
) -> None:
    with MasterClient(strict.url, bearer(strict, role)) as client:
        for ask in ASKS:
            with pytest.raises(NotAllowed):
                client.declare_stream(declaration(ask, docker_url, tmp_path))
    assert strict.client.streams() == ()


@pytest.mark.parametrize("ask", ASKS)
def test_a_worker_refuses_what_its_own_configuration_does_not_permit_and_status_says_so(
    strict: LocalCluster, docker_host: DockerHost, docker_url: str, tmp_path: Path, ask: str
) -> None:
    strict.declare(declaration(ask, docker_url, tmp_path))
    (trouble,) = wait_until(lambda: strict.client.workers()[0].troubles, 20)
    assert ASKS[ask][2] in trouble.text
    assert docker_host.containers({"io.harmonicio.stream": "s"}) == ()


def test_a_way_back_up_leads_out_of_no_permitted_folder(
    strict: LocalCluster, docker_host: DockerHost, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=r"without '\.\.'"):
        strict.declare(StreamDeclaration("s", image=ECHO, container=ContainerNeeds(folders=(f"{tmp_path}/../x",))))
    tiers = {name: {"folder": f"{tmp_path}/../{tmp_path.name}-{name}"} for name in ("kept", "unscored")}
    haste = {
        "function": {"name": "feature", "feature": "size_bytes"},
        "policy": {"intervals": [[0, 1, "kept"]]},
        "tiers": tiers,
    }
    strict.declare(StreamDeclaration("s", image=ECHO, plugins={"haste": haste}))
    (trouble,) = wait_until(lambda: strict.client.workers()[0].troubles, 20)
    assert "leads over one or back up" in trouble.text
    assert not (tmp_path.parent / f"{tmp_path.name}-kept").exists()
    assert docker_host.containers({"io.harmonicio.stream": "s"}) == ()


@pytest.mark.row("S11")
def test_a_declaration_gets_no_more_cpu_memory_or_processes_than_the_worker_is_set_to(
    tmp_path: Path, docker_settings: DockerSettings, docker_host: DockerHost, images: None
) -> None:
    settings = replace(docker_settings, cpus=0.5, memory_bytes=2**28, pids=100)
    needs = ContainerNeeds(cpus=64.0, memory_bytes=2**49, pids=4_000_000)
    with running(tmp_path / "cluster", settings) as cluster:
        cluster.declare(StreamDeclaration("s", image=ECHO, container=needs))
        cluster.wait_for_engines("s", 1)
        (engine,) = cluster.client.engines()
        host = docker_host.inspect(f"harmonicio-{engine.engine}")["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (500_000_000, 2**28, 100)


def test_an_engine_that_nobody_can_reach_does_not_start_and_harms_no_other(
    tmp_path: Path, docker_settings: DockerSettings, images: None
) -> None:
    with running(tmp_path / "cluster", replace(docker_settings, networks=("none",))) as cluster:
        cluster.declare(StreamDeclaration("well", image=ECHO))
        cluster.declare(StreamDeclaration("alone", image=ECHO, container=ContainerNeeds(network="none")))
        (trouble,) = wait_until(lambda: cluster.client.workers()[0].troubles, 20)
        assert "Its container has no address in the network 'none'." in trouble.text
        cluster.wait_for_engines("well", 1)
        assert [each.stream for each in cluster.client.engines() if each.address] == ["well"]


def test_tags_are_refused_where_images_run_by_digest_only(
    tmp_path: Path, docker_settings: DockerSettings, docker_host: DockerHost, images: None
) -> None:
    with running(tmp_path / "cluster", replace(docker_settings, pin_digests=True)) as cluster:
        cluster.declare(StreamDeclaration("s", image=ECHO))
        (trouble,) = wait_until(lambda: cluster.client.workers()[0].troubles, 20)
        assert "runs images by digest only" in trouble.text
        digest = docker_host.image(ECHO).id
        cluster.declare(StreamDeclaration("s", image=f"{ECHO}@{digest}"))
        cluster.wait_for_engines("s", 1)
        assert [each.image for each in cluster.client.engines()] == [digest]


def test_an_administrator_of_the_host_can_permit_more_and_then_a_stream_gets_it(
    tmp_path: Path, docker_settings: DockerSettings, docker_host: DockerHost, images: None
) -> None:
    settings = replace(
        docker_settings,
        folders=(str(tmp_path),),
        devices=("/dev/null",),
        capabilities=("SYS_NICE",),
        namespaces=("pid", "ipc"),
    )
    needs = ContainerNeeds(
        folders=(str(tmp_path / "made"),),
        devices=("/dev/null",),
        capabilities=("SYS_NICE",),
        namespaces=("pid", "ipc"),
    )
    with running(tmp_path / "cluster", settings) as cluster:
        cluster.declare(StreamDeclaration("s", image=ECHO, container=needs))
        cluster.wait_for_engines("s", 1)
        (engine,) = cluster.client.engines()
        host = docker_host.inspect(f"harmonicio-{engine.engine}")["HostConfig"]
    assert (host["PidMode"], host["IpcMode"]) == ("host", "host")
    assert [each["PathOnHost"] for each in host["Devices"]] == ["/dev/null"]
    assert [each.removeprefix("CAP_") for each in host["CapAdd"]] == ["SYS_NICE"]
    assert host["CapDrop"] == ["ALL"]
    assert str(tmp_path / "made") in {each["Target"] for each in host["Mounts"]}
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize("needs", [ContainerNeeds(network="host"), ContainerNeeds(privileged=True)], ids=["net", "all"])
def test_an_engine_that_may_have_more_works_as_any_other(
    tmp_path: Path, docker_settings: DockerSettings, images: None, needs: ContainerNeeds
) -> None:
    settings = replace(docker_settings, networks=("host",), privileged=True)
    with running(tmp_path / "cluster", settings) as cluster:
        cluster.declare(StreamDeclaration("s", image=ECHO, container=needs))
        cluster.wait_for_engines("s", 1)
        with StreamConnector("s", master=cluster.url, token=cluster.source_token, patience_s=60.0) as connector:
            assert connector.send(b"hello").result(30)["size_bytes"] == 5
        with StreamConnector("s", master=cluster.url, token=cluster.source_token) as connector:
            cluster.client.scale_stream("s", 0)
            wait_until(lambda: not cluster.client.engines(), 30)
            delivery = connector.send(b"by the backlog")
            connector.flush("safe", timeout_s=30)
            cluster.client.scale_stream("s", 1)
            assert delivery.result(30)["size_bytes"] == 14
