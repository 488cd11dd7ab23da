"""What an engine in a container can do, and what it cannot: asked of the Docker engine, and of itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import HandlerFailed
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import ContainerNeeds, StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.worker.containers.docker_host import DockerHost
from harmonicio.worker.options import WorkerOptions

GIB = 1024**3
PROBE = """
import ctypes, os, pathlib, socket
from harmonicio.engine import handler

def attempt(act, *arguments):
    try:
        return str(act(*arguments))
    except OSError as error:
        return error.strerror

def status(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith(key + ":"))

@handler
def probe(message, *, folder: str = ""):
    return {
        "uid": os.getuid(),
        "capabilities": [status(key) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
        "no_new_privileges": status("NoNewPrivs"),
        "write_to_root": attempt(open, "/new", "w"),
        "write_to_code": attempt(open, "/engine/engine.py", "a"),
        "mount": "no" if ctypes.CDLL(None).mount(b"none", b"/scratch", b"tmpfs", 0, None) else "yes",
        "become_root": attempt(os.setuid, 0),
        "scratch": attempt(open, "/scratch/new", "w")[:20],
        "folder": attempt(open, folder + "/new", "w")[:20] if folder else "",
        "environment": sorted(os.environ),
        "docker_socket": os.path.exists("/var/run/docker.sock"),
        "control_folder": sorted(os.listdir("/run/harmonicio")),
    }
"""


FILLER = """
from harmonicio.engine import handler

@handler
def fill(message):
    said = ""
    if bytes(message.payload[:5]) == b"fill ":
        path = bytes(message.payload[5:]).decode() + "/large"
        try:
            with open(path, "wb") as file:
                for _ in range(100):
                    file.write(bytes(2**20))
        except OSError as error:
            said = error.strerror
        import os
        os.unlink(path)
    return [len(message.payload), said]
"""


@pytest.fixture
def probe_image(engine_image: Callable[[str, str], str]) -> str:
    return engine_image("probe", PROBE)


@pytest.fixture
def size_image(engine_image: Callable[[str, str], str]) -> str:
    code = "from harmonicio.engine import handler\n@handler\ndef size(m):\n    return {'size_bytes': len(m.payload)}\n"
    return engine_image("size", code)


@pytest.mark.row("S11")
def test_a_live_engine_has_no_more_than_the_design_gives_it(
    cluster: LocalCluster,
    connect: Callable[..., StreamConnector],
    docker_host: DockerHost,
    tmp_path: Path,
    size_image: str,
) -> None:
    tiers = {name: {"folder": str(tmp_path / "tiers" / name)} for name in ("kept", "unscored")}
    haste = {
        "function": {"name": "feature", "feature": "size_bytes", "highest": 10},
        "policy": {"intervals": [[0, 1, "kept"]]},
        "tiers": tiers,
    }
    (tmp_path / "models").mkdir()
    needs = ContainerNeeds(cpus=0.5, memory_bytes=GIB, pids=100, reference_folders=(str(tmp_path / "models"),))
    cluster.declare(StreamDeclaration("s", image=size_image, container=needs, plugins={"haste": haste}))
    cluster.wait_for_engines("s", 1)
    with connect("s") as connector:
        assert connector.send(b"hello").result()["features"] == {"size_bytes": 5.0}
    (engine,) = cluster.client.engines()
    container = docker_host.inspect(f"harmonicio-{engine.engine}")
    host = container["HostConfig"]
    assert container["Config"]["User"] not in ("", "0", "root", "0:0")
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (500_000_000, GIB, GIB, 100)
    assert (host["NetworkMode"], host["PidMode"], host["IpcMode"]) == ("bridge", "", "private")
    assert not host["Devices"]
    worker = tmp_path / "cluster" / "worker" / "engines" / engine.engine / "socket"
    assert {(each["Destination"], each["Source"], each["RW"]) for each in container["Mounts"]} == {
        ("/run/harmonicio", str(worker), True),
        ("/scratch", str(tmp_path / "cluster" / "scratch" / "containers" / engine.engine), True),
        *((tier["folder"], tier["folder"], True) for tier in tiers.values()),
        (str(tmp_path / "models"), str(tmp_path / "models"), False),
    }
    assert not any(name in text for text in container["Config"]["Env"] for name in ("KEY", "TOKEN", "TICKET"))
    assert engine.image == container["Image"]


@pytest.mark.row("S20")
@pytest.mark.row("S11")
def test_an_engine_can_change_nothing_but_its_scratch_space_and_become_nobody_else(
    cluster: LocalCluster, connect: Callable[..., StreamConnector], probe_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARMONICIO_CLIENT_TOKEN", "a secret of the worker")
    cluster.declare(StreamDeclaration("probe", image=probe_image))
    cluster.wait_for_engines("probe", 1)
    with connect("probe") as connector:
        found = connector.send(b"").result()
    assert found["uid"] not in (0, os.getuid() if os.getuid() == 0 else -1)
    assert set(found["capabilities"]) == {"0" * 16}
    assert found["no_new_privileges"] == "1"
    assert found["write_to_root"] == "Read-only file system"
    assert found["write_to_code"] == "Permission denied"
    assert found["mount"] == "no"
    assert found["become_root"] == "Operation not permitted"
    assert found["scratch"].startswith("<_io.TextIOWrapper")
    assert found["docker_socket"] is False
    # The configuration, which holds the engine's key, is gone once it has been read.
    assert found["control_folder"] == ["control.sock", "data.sock", "handlers"]
    assert not [name for name in found["environment"] if name.startswith("HARMONICIO")]


@pytest.mark.row("S11")
def test_an_engine_that_needs_more_memory_than_it_may_have_ends_with_that_reason(
    cluster: LocalCluster, connect: Callable[..., StreamConnector], engine_image: Callable[[str, str], str]
) -> None:
    code = "from harmonicio.engine import handler\n@handler\ndef eat(message):\n    return len(bytearray(2**30))\n"
    image = engine_image("eater", code)
    needs = ContainerNeeds(memory_bytes=GIB // 4)
    cluster.declare(StreamDeclaration("eater", image=image, container=needs, max_crashes=1))
    cluster.wait_for_engines("eater", 1)
    with connect("eater") as connector, pytest.raises(HandlerFailed, match="EngineCrashed"):
        connector.send(b"x").result(60)
    (trouble,) = cluster.client.workers()[0].troubles
    assert "It ended by signal 9. It needed more than its 268 MB of memory." in trouble.text


@pytest.mark.row("F28")
def test_an_engine_cannot_fill_more_than_its_own_space_which_goes_with_it(
    docker_settings: DockerSettings, engine_image: Callable[[str, str], str], tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can bound the scratch space")
    image = engine_image("filler", FILLER)
    scratch = tmp_path / "cluster" / "scratch"
    worker = WorkerOptions(
        "local",
        tmp_path / "cluster" / "worker",
        scratch,
        max_engines=1,
        runtime="docker",
        docker=replace(docker_settings, scratch_max_bytes=20 * 1024**2),
    )
    with LocalCluster(tmp_path / "cluster", worker=worker) as cluster:
        cluster.declare(StreamDeclaration("filler", image=image, memory_payload_max_bytes=1024**2))
        cluster.wait_for_engines("filler", 1)
        with StreamConnector("filler", master=cluster.url, token=cluster.source_token) as connector:
            assert connector.send(bytes(5 * 1024**2)).result(30) == [5 * 1024**2, ""]
            assert connector.send(b"fill /scratch").result(30) == [13, "No space left on device"]
            assert connector.send(b"fill /run/harmonicio").result(30) == [20, "No space left on device"]
            assert connector.send(bytes(5 * 1024**2)).result(30) == [5 * 1024**2, ""]
    assert list((scratch / "containers").iterdir()) == []
    assert list((tmp_path / "cluster" / "worker" / "engines").iterdir()) == []


def test_what_an_image_wants_to_be_writable_is_a_little_memory_and_no_volume_of_the_host(
    cluster: LocalCluster,
    connect: Callable[..., StreamConnector],
    docker_host: DockerHost,
    images: None,
    build_image: Callable[..., str],
) -> None:
    lines = "VOLUME /cache\nCOPY engine.py /engine/"
    image = build_image("volume", lines, {"engine.py": FILLER}, base="harmonicio/engine-base")
    cluster.declare(StreamDeclaration("volume", image=image))
    cluster.wait_for_engines("volume", 1)
    with connect("volume") as connector:
        assert connector.send(b"fill /cache").result(30) == [11, "No space left on device"]
    (engine,) = cluster.client.engines()
    mounts = docker_host.inspect(f"harmonicio-{engine.engine}")["Mounts"]
    assert {each["Type"] for each in mounts} == {"bind"}
