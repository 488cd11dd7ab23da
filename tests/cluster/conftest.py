"""Three machines, and the playbook that makes a cluster of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.machines import Machines
from cluster.site import Site

NAMES = ("host1", "host2", "host3")


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Machines]:
    """Three machines on which nothing is installed."""
    folder = tmp_path_factory.mktemp("machines")
    try:
        with Machines(folder, repository / "build" / "machines" / "base", *NAMES) as running:
            yield running
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def site(machines: Machines, tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Site:
    """A site of these machines, on which the playbook need not have been run yet."""
    return Site(machines, tmp_path_factory.mktemp("site"), repository / "deploy" / "ansible")


@pytest.fixture
def cluster(site: Site) -> Site:
    """The site, with this checkout on all machines and all engines at work."""
    if not site.is_current:
        site.play()
    site.scale(plates=4, kept=0)
    site.wait_for_engines(host2=2, host3=2)
    return site
