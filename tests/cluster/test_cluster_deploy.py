"""A cluster of machines that the playbook makes: installed, used, hurt and upgraded as a site does it.

The tests build on each other, in this order.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from cluster.machines import Machines
from cluster.site import Site

from harmonicio.testing.waiting import wait_until

pytestmark = pytest.mark.timeout(900)

IS_FULL = os.environ.get("CLUSTER_TEST") == "full"
MESSAGES = 1_000 if IS_FULL else 200


@pytest.fixture(scope="module")
def site(machines: Machines, tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Site:
    return Site(machines, tmp_path_factory.mktemp("site"), repository / "deploy" / "ansible")


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


def all_engines_run(site: Site) -> None:
    wait_until(lambda: " 4 of 4 " in site.command("stream", "ls"), 90, what="all engines to run")


def test_the_playbook_makes_a_cluster_of_empty_machines_and_changes_nothing_the_second_time(
    machines: Machines, site: Site, earlier: Path
) -> None:
    changes = site.play(harmonicio_wheelhouse=str(earlier))
    assert changes.keys() == set(machines.names) and all(changes.values())
    all_engines_run(site)
    assert set(site.play(harmonicio_wheelhouse=str(earlier)).values()) == {0}
    failed = [machines.ssh(name, "systemctl --failed --no-legend").stdout for name in machines.names]
    assert failed == [""] * len(machines.names)


def test_a_stream_over_two_machines_is_processed_while_one_of_them_loses_its_power(
    machines: Machines, site: Site
) -> None:
    with site.sending(MESSAGES, 1_000_000, per_s=40, takes_s=0.02) as source:
        source.wait_for(MESSAGES // 10)
        machines.pull_the_plug("host3")
        said = source.finish()
    assert said["states"] == {"done": MESSAGES} and said["wrong"] == []
    machines.boot("host3")
    machines.wait_for("host3")
    all_engines_run(site)
    with site.sending(20, 1_000_000, per_s=40) as source:
        assert source.finish()["states"] == {"done": 20}


def test_an_upgrade_under_load_loses_nothing(machines: Machines, site: Site) -> None:
    before = {name: site.release(name) for name in machines.names}
    with site.sending(100_000, 1_000_000, per_s=20, takes_s=0.1) as source:
        source.wait_for(20)
        changes = site.play()
        source.wait_for(source.last["states"]["done"] + 20)
        source.stop()
        said = source.finish()
    assert all(changes.values()) and said["sent"] > MESSAGES
    assert said["states"] == {"done": said["sent"]} and said["wrong"] == []
    after = {name: site.release(name) for name in machines.names}
    assert len({*before.values()}) == len({*after.values()}) == 1 and before != after
