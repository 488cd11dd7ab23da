"""A cluster of machines that the playbook makes: installed, used, hurt and upgraded as a site does it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.machines import Machines
from cluster.site import Site

from harmonicio.testing.waiting import wait_until

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def site(machines: Machines, tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Site]:
    yield Site(machines, tmp_path_factory.mktemp("site"), repository / "deploy" / "ansible")


def test_the_playbook_makes_a_cluster_of_empty_machines_and_changes_nothing_the_second_time(
    machines: Machines, site: Site
) -> None:
    changes = site.play()
    assert changes.keys() == set(machines.names) and all(changes.values())
    wait_until(lambda: site.command("status").count("4 of 4") >= 2, 60, what="all engines")
    assert set(site.play().values()) == {0}
    failed = [machines.ssh(name, "systemctl --failed --no-legend").stdout for name in machines.names]
    assert failed == [""] * len(machines.names)
