"""Three machines, and the playbook that makes a cluster of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.machines import Machines

NAMES = ("host1", "host2", "host3")


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Machines]:
    """Three machines on which nothing is installed."""
    folder = tmp_path_factory.mktemp("machines")
    try:
        with Machines(folder, repository / "build" / "machines" / "base", *NAMES) as running:
            yield running
    finally:
        shutil.rmtree(folder)
