"""A cluster of machines that the playbook makes: installed, used, hurt and upgraded as a site does it.

The tests build on each other, in this order.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from cluster.machines import Machines
from cluster.site import IS_FULL, Site, tell

from harmonicio.testing.waiting import wait_until

pytestmark = pytest.mark.timeout(900)

MESSAGES = 1_000 if IS_FULL else 200


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Return a wheelhouse with the release of the commit before this one."""
    folder = tmp_path_factory.mktemp("earlier")
    checkout, wheelhouse = folder / "checkout", folder / "wheelhouse"
    subprocess.run(
        ["git", "-C", str(repository), "archive", "-o", str(folder / "earlier.tar"), "HEAD~1"], check=True, timeout=60
    )
    with tarfile.open(folder / "earlier.tar") as archive:
        archive.extractall(checkout, filter="data")
    shutil.copytree(repository / "build" / "images", wheelhouse, ignore=shutil.ignore_patterns("own"))
    shutil.copy(checkout / "deploy" / "docker" / "requirements.lock", wheelhouse)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, str(checkout), "-w", str(wheelhouse / "own")], check=True, timeout=120)
    return wheelhouse


@pytest.mark.row("H21")
def test_the_playbook_makes_a_cluster_of_empty_machines_and_changes_nothing_the_second_time(
    machines: Machines, site: Site, earlier: Path
) -> None:
    changes = site.play(harmonicio_wheelhouse=str(earlier))
    assert changes.keys() == set(machines.names) and all(changes.values())
    site.wait_for_engines(host2=2, host3=2)
    again = site.play(harmonicio_wheelhouse=str(earlier))
    assert set(again.values()) == {0}
    failed = [machines.ssh(name, "systemctl --failed --no-legend").stdout for name in machines.names]
    assert failed == [""] * len(machines.names)
    tell(f"the playbook on three empty machines: {sum(changes.values())} changes; again: {sum(again.values())}")


_ASK = """
import ssl, sys, urllib.request
context = ssl._create_unverified_context()
if sys.argv[2:]:
    context.load_cert_chain(*sys.argv[2:])
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=10, context=context).read().decode())
except OSError as error:
    print(error)
"""


def load_of(machines: Machines, name: str, *certificate: str, folder: Path = Path()) -> str:
    """Return what a machine tells of its load, or why it tells nothing."""
    shown = [str(folder / "certs" / each) for each in certificate]
    words = [sys.executable, "-c", _ASK, f"https://{machines.address(name)}:9100/metrics", *shown]
    return subprocess.run([*machines.on(), *words], check=True, capture_output=True, text=True, timeout=30).stdout


def test_the_load_of_all_machines_is_kept_on_one_and_told_to_nobody_else(machines: Machines, site: Site) -> None:
    asked = "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1:9090/api/v1/query?query=up\").read())'"

    def are_up() -> set[str]:
        answer = json.loads(ast.literal_eval(machines.ssh(machines.names[0], asked).stdout))
        return {each["metric"]["host"] for each in answer["data"]["result"] if each["value"][1] == "1"}

    wait_until(lambda: are_up() == set(machines.names), 60, what="all machines to tell their load")
    for name in machines.names:
        assert "node_cpu_seconds_total" in load_of(
            machines, name, "client.pem", "client.key", folder=site.settings.parent
        )
        refusal = load_of(machines, name)
        assert "certificate" in refusal and "node_" not in refusal
    listening = machines.ssh(machines.names[0], "ss -ltnH 'sport = :9090'").stdout.split()
    assert listening[3] == "127.0.0.1:9090"


@pytest.mark.allow_leaks(reason="the machine that is switched on again is everybody's")
def test_a_stream_over_two_machines_is_processed_while_one_of_them_loses_its_power(
    machines: Machines, site: Site
) -> None:
    site.wait_for_engines(host2=2, host3=2)
    # So much work that all four engines are busy, most of the time.
    with site.sending(MESSAGES, per_s=40, takes_s=0.08) as source:
        source.wait_for(MESSAGES // 10)
        wait_until(lambda: site.journal("host3"), what="messages that go to host3")
        machines.pull_the_plug("host3")
        said = source.finish()
    done = said["states"]["done"]
    machines.boot("host3")
    machines.wait_for("host3")
    site.wait_for_engines(host2=2, host3=2)
    again = site.again(said["ids"], lost="host3")
    tell(f"one of two machines lost its power: {done} of {MESSAGES} done, {again} of them handled twice")
    with site.sending(20, per_s=40) as source:
        said = source.finish()
    tell(f"it came back: 2 engines on each, {said['states']['done']} of 20 done")


def test_an_upgrade_under_load_loses_nothing(machines: Machines, site: Site) -> None:
    before = {name: site.release(name) for name in machines.names}
    with site.sending(100_000, per_s=20, takes_s=0.1) as source:
        source.wait_for(20)
        changes = site.play()
        source.goes_on(20)
        source.stop()
        said = source.finish()
    assert all(changes.values()) and said["sent"] > 100
    after = {name: site.release(name) for name in machines.names}
    assert len({*before.values()}) == len({*after.values()}) == 1 and before != after
    again = site.again(said["ids"])
    tell(f"upgraded under load: {said['states']['done']} of {said['sent']} done, {again} of them handled twice")
