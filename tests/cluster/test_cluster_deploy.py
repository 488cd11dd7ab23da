"""A cluster of machines that the playbook makes: installed, used, hurt and upgraded as a site does it.

The tests build on each other, in this order.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cluster.machines import Machines
from cluster.releases import EARLIER, earlier_wheelhouse, environment, has_earlier
from cluster.site import IS_FULL, Site, tell

from harmonicio.testing.waiting import wait_until

pytestmark = pytest.mark.timeout(900)

MESSAGES = 1_000 if IS_FULL else 200
#: Which machines are upgraded by and by. A newer worker has an older master at first; then, for longer or shorter, the
#: other way round, because the master comes first.
STAGES = [["host3"], *([["host1", "host3"]] if IS_FULL else []), ["host1", "host2", "host3"]]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path | None:
    """The wheelhouse of an earlier release; None where this clone has no history."""
    return earlier_wheelhouse(tmp_path_factory.mktemp("earlier"), repository) if has_earlier(repository) else None


@pytest.mark.row("H21")
def test_the_playbook_makes_a_cluster_of_empty_machines_and_changes_nothing_the_second_time(
    machines: Machines, site: Site, earlier: Path | None
) -> None:
    release = {"harmonicio_wheelhouse": str(earlier)} if earlier else {}
    changes = site.play(**release)
    assert changes.keys() == set(machines.names) and all(changes.values())
    site.wait_for_engines(host2=2, host3=2)
    again = site.play(**release)
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


@pytest.mark.parametrize(("name", "unit", "exposure"), [("host1", "master", 20), ("host2", "worker", 50)])
def test_systemd_finds_no_fault_with_the_units(
    machines: Machines, site: Site, name: str, unit: str, exposure: int
) -> None:
    file = f"/etc/systemd/system/harmonicio-{unit}.service"
    assert machines.ssh(name, f"systemd-analyze verify {file} 2>&1").stdout == ""
    found = machines.ssh(name, f"systemd-analyze security --no-pager --threshold={exposure} {file.rpartition('/')[2]}")
    tell(f"systemd, of the {unit}'s unit: {found.stdout.splitlines()[-1].split(' ', 1)[1]}")


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


@pytest.mark.row("F38")
def test_an_upgrade_under_load_loses_nothing_while_older_and_newer_parts_meet(
    machines: Machines, site: Site, earlier: Path | None, tmp_path: Path
) -> None:
    if earlier is None:
        pytest.skip(f"this clone has no earlier release: git finds no commit {EARLIER}")
    older = environment(tmp_path / "older", earlier)
    before = {name: site.release(name) for name in machines.names}
    for name in machines.names:
        machines.ssh(name, "mkdir /opt/harmonicio/0123456789ab && touch -d 2020-01-01 /opt/harmonicio/0123456789ab")
    with (
        site.sending(100_000, per_s=8, size_bytes=200_000, takes_s=0.1) as source,
        site.sending(100_000, per_s=8, size_bytes=200_000, takes_s=0.1, python=older) as older_source,
    ):
        for upgraded in STAGES:
            only = ["--limit", ",".join(upgraded)] if len(upgraded) < len(machines.names) else []
            site.play("site.yaml", *only)
            after = {name: site.release(name) for name in machines.names}
            assert [name for name in machines.names if after[name] != before[name]] == upgraded
            site.wait_for_engines(host2=2, host3=2)
            for each in (source, older_source):
                each.goes_straight(20)
            tell(f"upgraded {', '.join(upgraded)}: {source.safe} and {older_source.safe} safe")
        for each in (source, older_source):
            each.stop()
        said = [source.finish(), older_source.finish()]
    assert len(set(after.values())) == 1
    for name in machines.names:
        kept = machines.ssh(name, "ls /opt/harmonicio").stdout.split()
        assert sorted(kept) == sorted([before[name], after[name]]), "the last two releases"
    assert "older" in said[1]["runs"] and "older" not in said[0]["runs"]
    again = site.again([*said[0]["ids"], *said[1]["ids"]])
    told = ", ".join(f"{each['states']['done']} of {each['sent']} done" for each in said)
    tell(f"upgraded under load, a new and an old source: {told}, {again} of them handled twice")
