"""Containers that cannot start, do not stay or are not well: the reason is shown, and nothing is tried too often."""

from __future__ import annotations

import itertools
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.back_off import FIRST_DELAY_S
from harmonicio.worker.containers.docker_host import DockerHost
from harmonicio.worker.options import WorkerOptions

ATTEMPTS = 4


@pytest.fixture
def docker_settings(docker_settings: DockerSettings) -> DockerSettings:
    return replace(docker_settings, images=("harmonicio-test/*", "127.0.0.1:*"), pull_timeout_s=2.0)


@pytest.fixture
def starts(caplog: pytest.LogCaptureFixture) -> Callable[[], list[float]]:
    """When engines were started, by the worker's log."""
    caplog.set_level(logging.INFO, "harmonicio.worker.service")
    return lambda: [each.created for each in caplog.records if each.getMessage().endswith(" starts.")]


@pytest.fixture
def silent_registry() -> Iterator[str]:
    """A registry that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def closed_registry() -> str:
    """Return the address of a registry that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def trouble(cluster: LocalCluster) -> str:
    """Return what ``status`` says of missing engines."""
    return " ".join(each.text for worker in cluster.client.status().workers for each in worker.troubles)


def check_pace(starts: Callable[[], list[float]], *, lived_s: float = 0.0) -> None:
    """Wait for some attempts, and see that each came later than the back-off after the one before allows.

    Args:
        lived_s: How long the engine of an attempt lives before it fails.
    """
    moments = wait_until(lambda: starts() if len(starts()) >= ATTEMPTS else None, 60, what=f"{ATTEMPTS} attempts")
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    for number, gap in enumerate(gaps[: ATTEMPTS - 1]):
        # Jitter makes a delay as short as half of it.
        assert gap >= FIRST_DELAY_S * 2**number / 2 + lived_s - 0.05, gaps


def test_a_missing_image_is_named_and_tried_ever_more_seldom(
    cluster: LocalCluster, starts: Callable[[], list[float]]
) -> None:
    registry = closed_registry()
    cluster.declare(StreamDeclaration("s", image=f"{registry}/nothing:1"))
    wait_until(lambda: f"Image {registry}/nothing:1 cannot be pulled" in trouble(cluster), 30)
    check_pace(starts)


def test_a_pull_that_never_ends_is_shown_and_given_up(cluster: LocalCluster, silent_registry: str) -> None:
    cluster.declare(StreamDeclaration("s", image=f"{silent_registry}/slow:1", engines=2))
    wait_until(lambda: f"Image {silent_registry}/slow:1 is being pulled" in trouble(cluster), 30)
    wait_until(lambda: f"Image {silent_registry}/slow:1 was not pulled within 2 s" in trouble(cluster), 30)


def test_a_container_that_exits_at_once_is_tried_ever_more_seldom_and_its_last_words_are_shown(
    cluster: LocalCluster,
    starts: Callable[[], list[float]],
    build_image: Callable[..., str],
    docker_host: DockerHost,
) -> None:
    image = build_image("exits", """CMD ["python3", "-c", "raise SystemExit('the licence has ended')"]""")
    cluster.declare(StreamDeclaration("s", image=image))
    wait_until(lambda: "It ended with exit code 1 before it was ready. the licence has ended" in trouble(cluster), 30)
    check_pace(starts)
    # Those that have ended are removed.
    wait_until(lambda: len(docker_host.containers({"io.harmonicio.stream": "s"})) <= 1, 10)


def test_an_image_whose_program_is_missing_says_so(cluster: LocalCluster, build_image: Callable[..., str]) -> None:
    cluster.declare(StreamDeclaration("s", image=build_image("no-program", """CMD ["segment-cells"]""")))
    wait_until(lambda: "segment-cells" in trouble(cluster), 30)


def test_an_engine_whose_health_check_flaps_is_replaced_no_faster_than_the_back_off(
    cluster: LocalCluster, starts: Callable[[], list[float]], images: None, build_image: Callable[..., str]
) -> None:
    check = 'HEALTHCHECK --interval=1s --retries=1 CMD test $(($(date +%s) / 2 % 2)) = 0 || (echo "no GPU"; exit 1)'
    code = "from harmonicio.engine import handler\n@handler\ndef h(m):\n    return 1\n"
    image = build_image(
        "flapping", f"COPY engine.py /engine/\n{check}", {"engine.py": code}, base="harmonicio/engine-base"
    )
    cluster.declare(StreamDeclaration("s", image=image))
    wait_until(lambda: "The health check of its image failed: no GPU" in trouble(cluster), 30)
    check_pace(starts, lived_s=1.0)


def test_a_docker_engine_that_is_not_there_is_said_at_the_start(tmp_path: Path) -> None:
    settings = DockerSettings(url=f"unix://{tmp_path}/nobody.sock")
    worker = WorkerOptions("w", tmp_path / "worker", tmp_path / "scratch", 1, runtime="docker", docker=settings)
    with pytest.raises(Exception, match=r"nobody\.sock does not answer \(No such file or directory\)"):
        LocalCluster(tmp_path, worker=worker)
    with closing(DockerHost(settings.url)) as host, pytest.raises(Exception, match="does not answer"):
        host.check()
