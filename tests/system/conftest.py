"""A real cluster per test: master, worker and engines on loopback, engines as child processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from benches import roles
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.stream_connector import StreamConnector


@pytest.fixture
def free_ports() -> tuple[int, int]:
    return roles.free_ports()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path / "cluster", max_engines=4) as running:
        yield running


@pytest.fixture
def write_handler(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write ``<name>.py`` with the given code and return its path."""

    def write(name: str, code: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(dedent(code))
        return path

    return write


@pytest.fixture
def connect(cluster: LocalCluster) -> Callable[..., StreamConnector]:
    """Make a connector of the cluster: ``connect("stream", patience_s=…)``."""

    def make(stream: str, **options: object) -> StreamConnector:
        return StreamConnector(stream=stream, master=cluster.url, token=cluster.source_token, **options)

    return make
