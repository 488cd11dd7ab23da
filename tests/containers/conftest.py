"""Containers of a real Docker engine. Where none can be had the tests skip, and in CI they fail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from benches import docker_engine
from benches.docker_engine import BASE_IMAGE, DockerEngine, answering_engine, make_base_image, obstacle
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.settings import DockerSettings
from harmonicio.stream_connector import StreamConnector
from harmonicio.worker.containers.docker_host import DockerHost
from harmonicio.worker.options import WorkerOptions

IS_CI = os.environ.get("CI") == "true"
REGISTRY_BASE_IMAGE = "python:3.11-slim"
BUILD_S = 600.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first of them waits for the images."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(BUILD_S))


@pytest.fixture(scope="session")
def docker_folder(repository: Path) -> Path:
    """What a Docker engine of our own keeps, so that the next run finds its images."""
    return repository / "build" / "docker-engine"


@pytest.fixture(scope="session")
def own_engine(docker_folder: Path) -> Iterator[DockerEngine | None]:
    """The Docker engine that was started here; ``None`` where this machine has one of its own."""
    if answering_engine():
        yield None
        return
    if reason := obstacle():
        (pytest.fail if IS_CI else pytest.skip)(reason)
    with DockerEngine(docker_folder) as engine:
        yield engine


@pytest.fixture(scope="session")
def docker_url(own_engine: DockerEngine | None) -> Iterator[str]:
    """Where the Docker engine is; every command that is run finds it there, too."""
    url = own_engine.url if own_engine else answering_engine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", url)
        yield url


@pytest.fixture(scope="session")
def base_image(docker_url: str, docker_folder: Path) -> Iterator[str]:
    """An image with Python 3.11: made here where root can, else that of the registry."""
    name = BASE_IMAGE if os.geteuid() == 0 else REGISTRY_BASE_IMAGE
    if name == BASE_IMAGE:
        make_base_image(docker_url, docker_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASE_IMAGE", name)
        yield name


@pytest.fixture(scope="session")
def images(repository: Path, base_image: str) -> None:
    """All images of this checkout are there, as ``make images`` builds them."""
    subprocess.run(["make", "images"], cwd=repository, check=True, timeout=BUILD_S)


@pytest.fixture
def docker_host(docker_url: str) -> Iterator[DockerHost]:
    host = DockerHost(docker_url)
    yield host
    host.close()


@pytest.fixture
def docker_settings(docker_url: str) -> DockerSettings:
    """An administrator who lets this host run the images of tests and of this checkout, and gives nothing else."""
    return DockerSettings(url=docker_url, images=("harmonicio/*", "harmonicio-test/*"), pull_timeout_s=5.0)


@pytest.fixture
def cluster(tmp_path: Path, docker_settings: DockerSettings) -> Iterator[LocalCluster]:
    """Master and worker in this process; engines in containers."""
    worker = WorkerOptions(
        "local",
        tmp_path / "cluster" / "worker",
        tmp_path / "cluster" / "scratch",
        max_engines=4,
        runtime="docker",
        docker=docker_settings,
    )
    with LocalCluster(tmp_path / "cluster", worker=worker) as running:
        yield running


@pytest.fixture
def connect(cluster: LocalCluster) -> Callable[..., StreamConnector]:
    """Make a connector of the cluster: ``connect("stream", patience_s=…)``."""

    def make(stream: str, **options: object) -> StreamConnector:
        return StreamConnector(stream=stream, master=cluster.url, token=cluster.source_token, **options)

    return make


@pytest.fixture
def build_image(docker_host: DockerHost, base_image: str, tmp_path: Path) -> Callable[..., str]:
    """Build an image of lines of a Dockerfile and files: ``build_image("name", "COPY x.py /", {"x.py": "…"})``."""

    def build(name: str, lines: str, files: Mapping[str, str] | None = None, *, base: str = base_image) -> str:
        return docker_engine.build(docker_host, tmp_path, base, name, lines, files or {})

    return build


@pytest.fixture
def engine_image(images: None, build_image: Callable[..., str]) -> Callable[[str, str], str]:
    """Build the image of an engine: ``engine_image("name", "…the code of engine.py…")``."""

    def build(name: str, code: str) -> str:
        files = {"engine.py": dedent(code)}
        return build_image(name, "COPY engine.py /engine/", files, base="harmonicio/engine-base")

    return build
