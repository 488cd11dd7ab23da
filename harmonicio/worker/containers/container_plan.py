"""How an engine's container is made: what it gets, and everything that it does not get.

    of the host                                 in the container
    <engine's folder>/socket                    /run/harmonicio     control socket, handler board, configuration
    a scratch volume of bounded size            /scratch            payloads too large for memory; HOME, TMPDIR
    tiers and folders of the declaration        the same paths
    —                                           everything else is of the image, and cannot be changed

It runs as an ordinary user, with no capability and none to be gained, and with limits on CPU, memory and processes.
What loosens that was permitted before (:mod:`harmonicio.worker.containers.permits`).

Pure: the words of the Docker engine's API (``POST /containers/create``), version 1.41.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from harmonicio.control.engine_messages import SOCKET_FOLDER_INSIDE, EngineConfiguration
from harmonicio.core.errors import Unavailable
from harmonicio.core.lease import Address
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import ContainerNeeds

DATA_PORT = 8712
SCRATCH_INSIDE = "/scratch"
LABEL_WORKER, LABEL_ENGINE, LABEL_STREAM = "io.harmonicio.worker", "io.harmonicio.engine", "io.harmonicio.stream"
MAX_LOG_BYTES = 10_000_000
#: Of each volume that an image declares: Docker's own would have no bound.
VOLUME_BYTES = 64 * 1024**2
#: What engines of a worker that is root run as, when nobody says otherwise: an ordinary user whom no host knows.
ORDINARY_USER = (10001, 10001)

_BARRED: Mapping[str, Any] = {
    "ReadonlyRootfs": True,
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges"],
    "RestartPolicy": {"Name": "no"},
    "LogConfig": {"Type": "json-file", "Config": {"max-size": str(MAX_LOG_BYTES), "max-file": "2"}},
}

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HOST_NETWORK = "host"


@dataclass(frozen=True, slots=True)
class ContainerLimits:
    """What one engine may use: CPUs, bytes of memory, processes and threads."""

    cpus: float
    memory_bytes: int
    pids: int


@dataclass(frozen=True, slots=True)
class ContainerSite:
    """What a container is made of, beside the engine's configuration.

    Attributes:
        image: The id of the image, by which it cannot be mistaken.
        owner: User and group id that it runs as.
        socket_folder, scratch_folder: On the host.
        host_ip: The address of the worker, where its ports are published.
        volumes: Paths of the image that its maker wants to be writable; each is a little memory of the container's.
        folders, reference_folders: On the host, to write and to read only.
    """

    image: str
    owner: tuple[int, int]
    worker: str
    socket_folder: str
    scratch_folder: str
    limits: ContainerLimits
    folders: tuple[str, ...] = ()
    reference_folders: tuple[str, ...] = ()
    host_ip: str = ""
    volumes: tuple[str, ...] = ()


def limits_of(
    needs: ContainerNeeds, settings: DockerSettings, *, cpus: int, memory_bytes: int, places: int
) -> ContainerLimits:
    """Return the limits of an engine: as declared, else as the worker is set, else its share of the host.

    What the worker is set to is also the most that a declaration gets; without that, what the host has.

    Args:
        cpus, memory_bytes: What the host has.
        places: Engines that the host may run.
    """
    share, usable_bytes = max(1, places), memory_bytes * 9 // 10
    most_cpus, most_bytes = settings.cpus or float(cpus), settings.memory_bytes or usable_bytes
    return ContainerLimits(
        cpus=min(needs.cpus or settings.cpus or max(1.0, cpus / share), most_cpus, float(cpus)),
        memory_bytes=min(needs.memory_bytes or settings.memory_bytes or usable_bytes // share, most_bytes),
        pids=min(needs.pids or settings.pids, settings.pids),
    )


def container_name(engine: str) -> str:
    """Return the name of an engine's container."""
    return f"harmonicio-{engine}"


def network_of(needs: ContainerNeeds, settings: DockerSettings) -> str:
    return needs.network or settings.network


def is_published(listen_host: str, network: str) -> bool:
    """Whether connectors reach an engine through a port of its host, not at the container's own address.

    A worker on loopback serves its own machine, which reaches containers directly.
    """
    return network != _HOST_NETWORK and listen_host not in _LOOPBACK


def seen_inside(configuration: EngineConfiguration, settings: DockerSettings, memory_bytes: int) -> EngineConfiguration:
    """Return an engine's configuration with paths and addresses as they are inside its container.

    Args:
        memory_bytes: The container's limit; payloads get at most half of it.
    """
    is_on_host = network_of(configuration.declaration.container, settings) == _HOST_NETWORK
    host = "" if is_on_host else settings.master_host  # There, the master is where the worker finds it.
    return replace(
        configuration,
        control_socket=f"{SOCKET_FOLDER_INSIDE}/{configuration.control_socket.rpartition('/')[2]}",
        scratch_folder=SCRATCH_INSIDE,
        listen_host=configuration.listen_host if is_on_host else "0.0.0.0",
        listen_port=0 if is_on_host else DATA_PORT,
        master_url=_with_host(configuration.master_url, host) if host else configuration.master_url,
        master_data=replace(configuration.master_data, host=host) if host else configuration.master_data,
        payload_budget_bytes=min(configuration.payload_budget_bytes, memory_bytes // 2),
    )


def container_plan(configuration: EngineConfiguration, site: ContainerSite, settings: DockerSettings) -> dict[str, Any]:
    """Return the body of the request that makes an engine's container."""
    needs = configuration.declaration.container
    network = network_of(needs, settings)
    port = f"{DATA_PORT}/tcp"
    plan: dict[str, Any] = {
        "Image": site.image,
        "Hostname": "" if network == _HOST_NETWORK else configuration.engine,
        "User": f"{site.owner[0]}:{site.owner[1]}",
        "Env": _environment(site.limits),
        "Labels": {
            LABEL_WORKER: site.worker,
            LABEL_ENGINE: configuration.engine,
            LABEL_STREAM: configuration.declaration.name,
        },
        "HostConfig": _confinement(needs, site) | {"NetworkMode": network},
    }
    if is_published(configuration.listen_host, network):
        plan["ExposedPorts"] = {port: {}}
        plan["HostConfig"]["PortBindings"] = {port: [{"HostIp": site.host_ip, "HostPort": ""}]}
    return plan


def address_of(listen_host: str, network: str, networks: Mapping[str, Any]) -> Address | None:
    """Return where connectors reach a running container; ``None`` where the engine itself says it.

    Args:
        network: Which one it joined.
        networks: What the Docker engine says of it (``NetworkSettings``).

    Raises:
        Unavailable: nobody can reach it.
    """
    if network == _HOST_NETWORK:
        return None
    if is_published(listen_host, network):
        bound = (networks.get("Ports") or {}).get(f"{DATA_PORT}/tcp") or [{}]
        host, port = listen_host, int(bound[0].get("HostPort") or 0)
    else:
        joined = (networks.get("Networks") or {}).get(network) or {}
        host, port = str(joined.get("IPAddress") or ""), DATA_PORT
    if not (host and port):
        raise Unavailable(f"Its container has no address in the network {network!r}.", hint="Choose another network.")
    return Address(host, port)


def _environment(limits: ContainerLimits) -> list[str]:
    # Libraries of arrays count the host's CPUs, and would start far more threads than the container has CPUs for.
    threads = max(1, math.ceil(limits.cpus))
    return [
        f"HOME={SCRATCH_INSIDE}",
        f"TMPDIR={SCRATCH_INSIDE}",
        "USER=engine",
        "PYTHONUNBUFFERED=1",
        f"OMP_NUM_THREADS={threads}",
    ]


def confined(memory_bytes: int) -> dict[str, Any]:
    """Return what every container of ours has, also one that only looks at an image: nothing, and no network."""
    return {
        "User": f"{ORDINARY_USER[0]}:{ORDINARY_USER[1]}",
        "HostConfig": {
            **_BARRED,
            "NetworkMode": "none",
            "Memory": memory_bytes,
            "MemorySwap": memory_bytes,
            "PidsLimit": DockerSettings().pids,
        },
    }


def _confinement(needs: ContainerNeeds, site: ContainerSite) -> dict[str, Any]:
    return {
        **_BARRED,
        "Mounts": _mounts(site),
        "Tmpfs": dict.fromkeys(site.volumes, f"rw,nosuid,nodev,size={VOLUME_BYTES},mode=1777"),
        "CapAdd": list(needs.capabilities),
        "Privileged": needs.privileged,
        "PidMode": _HOST_NETWORK if "pid" in needs.namespaces else "",
        "IpcMode": _HOST_NETWORK if "ipc" in needs.namespaces else "private",
        "Devices": [
            {"PathOnHost": each, "PathInContainer": each, "CgroupPermissions": "rwm"} for each in needs.devices
        ],
        "NanoCpus": round(site.limits.cpus * 1e9),
        "Memory": site.limits.memory_bytes,
        "MemorySwap": site.limits.memory_bytes,
        "PidsLimit": site.limits.pids,
    }


def _mounts(site: ContainerSite) -> list[dict[str, Any]]:
    inside = [(site.socket_folder, SOCKET_FOLDER_INSIDE, False), (site.scratch_folder, SCRATCH_INSIDE, False)]
    inside += [(folder, folder, False) for folder in site.folders]
    inside += [(folder, folder, True) for folder in site.reference_folders]
    return [
        {"Type": "bind", "Source": source, "Target": target, "ReadOnly": is_read_only}
        for source, target, is_read_only in inside
    ]


def _with_host(url: str, host: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=str(Address(host, parts.port)) if parts.port else host))
