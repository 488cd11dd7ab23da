"""What listens beyond this machine in plain text: nothing that has not been told to, in so many words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control.client import MasterClient
from harmonicio.core.errors import ConfigurationError
from harmonicio.core.lease import is_loopback
from harmonicio.core.settings import Settings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master import bridge
from harmonicio.master.service import MasterOptions, MasterService
from harmonicio.worker.options import WorkerOptions
from harmonicio.worker.service import WorkerService

pytestmark = pytest.mark.row("S6")

BEYOND = ["0.0.0.0", "::", "", "192.0.2.7", "fe80::1", "cluster.example"]


def listening() -> set[str]:
    """Return the addresses on which this process and its children listen by TCP."""
    here = psutil.Process()
    return {
        each.laddr.ip
        for process in (here, *here.children(recursive=True))
        for each in process.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }


def run(home: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command that is to end by itself."""
    given = {f"HARMONICIO_{name}": value for name, value in settings.items()}
    environ = {**os.environ, "HARMONICIO_HOME": str(home), **given}
    command: Sequence[str] = [sys.executable, "-m", "harmonicio.cli", *words]
    return subprocess.run(command, env=environ, cwd=home, capture_output=True, text=True, timeout=60, check=False)


def test_whoever_says_nothing_of_it_has_everything_on_loopback(tmp_path: Path) -> None:
    with LocalCluster(tmp_path) as cluster:
        cluster.declare(StreamDeclaration("echo", handler="harmonicio.engine.echo"))
        cluster.wait_for_engines("echo", 1)
        addresses = listening()
    assert addresses
    assert all(map(is_loopback, addresses))
    assert {Settings().master.host, Settings().worker.host} == {"127.0.0.1"}
    assert {MasterOptions(tmp_path).host, WorkerOptions("w", tmp_path, tmp_path, 1).host} == {"127.0.0.1"}


@pytest.mark.parametrize("host", BEYOND)
def test_a_worker_whose_engines_would_listen_beyond_loopback_without_tls_does_not_start(
    tmp_path: Path, host: str
) -> None:
    options = WorkerOptions("w", tmp_path / "worker", tmp_path / "scratch", 1, host=host)
    with MasterClient("http://127.0.0.1:9", "t") as master, pytest.raises(ConfigurationError, match="without TLS"):
        WorkerService(options, master)
    assert not (tmp_path / "worker").exists(), "it has begun nothing"


@pytest.mark.parametrize("host", BEYOND)
def test_a_master_that_would_listen_beyond_loopback_without_tls_does_not_start(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match="without TLS"):
        MasterService(MasterOptions(tmp_path / "master", host=host))
    assert not (tmp_path / "master").exists()


@pytest.mark.parametrize("role", ["master", "worker"])
def test_the_commands_end_with_what_to_do_and_their_settings_do_not_open_more_than_they_say(
    tmp_path: Path, role: str
) -> None:
    other = "worker" if role == "master" else "master"
    variables = {f"{role.upper()}_HOST": "0.0.0.0", f"{other.upper()}_INSECURE": "true", "CLIENT_TOKEN": "t"}
    ended = run(tmp_path, role, "run", **variables)
    assert ended.returncode != 0
    assert "beyond this machine, without TLS" in ended.stderr
    assert "tls.certificate" in ended.stderr and "--insecure" in ended.stderr


def test_a_worker_starts_when_it_is_told_so(tmp_path: Path) -> None:
    options = WorkerOptions("w", tmp_path / "worker", tmp_path / "scratch", 1, host="0.0.0.0", is_insecure=True)
    with MasterClient("http://127.0.0.1:9", "t") as master:
        service = WorkerService(options, master)
        service.stop(0.0)


def own_address() -> str:
    """Return an address of this machine on a device that is no bridge; that of an ordinary network, if there is one."""
    for device, addresses in psutil.net_if_addrs().items():
        for each in addresses:
            is_ordinary = "." in each.address and not (Path("/sys/class/net") / device / "bridge").exists()
            if is_ordinary and not is_loopback(each.address):
                return each.address
    pytest.skip("This machine is on no network.")


def test_a_network_of_other_hosts_is_no_bridge_of_containers(tmp_path: Path) -> None:
    options = MasterOptions(tmp_path / "master", port=0, data_port=0, bridge_host=own_address())
    with pytest.raises(ConfigurationError, match="no bridge of containers alone"):
        MasterService(options)


def test_a_bridge_with_a_cable_is_none_of_containers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_DEVICES", tmp_path)
    for path in ("br0/bridge", "br0/brif/veth1", "br0/brif/eth0", "br1/bridge", "br1/brif/veth2", "veth1", "veth2"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "eth0" / "device").mkdir(parents=True)
    for path in ("br2/bridge", "br2/brif/eth0.7", "eth0.7"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "eth0.7" / "lower_eth0").symlink_to("../eth0")
    assert [bridge._is_inner(tmp_path / each) for each in ("br0", "br1", "br2", "eth0", "nothing")] == [
        False,
        True,
        False,
        False,
        False,
    ]
