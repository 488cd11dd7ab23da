"""A message fills its engine's disk, or forks without end: limits of its engine stop it, and others are served."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import HandlerFailed
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import ContainerNeeds, StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.worker.options import WorkerOptions

MIB = 1024**2
PIDS = 60
POISON = """
import subprocess, sys, time
from harmonicio.engine import handler

BOMB = '''
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
'''

@handler
def handle(message):
    deed = bytes(message.payload[:20])
    if deed == b"fill":
        with open("/scratch/poison", "wb") as file:
            while True:
                file.write(bytes(2**20))
    if deed.startswith(b"fork"):
        subprocess.Popen([sys.executable, "-c", BOMB])
        while deed == b"fork and hang":
            time.sleep(1)
        while True:
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return len(message.payload)
"""

pytestmark = [
    pytest.mark.row("F28"),
    # Without the images, which may take minutes: a test that stands still shows where, while it does.
    pytest.mark.timeout(200, func_only=True),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can bound the scratch space"),
]


@pytest.fixture
def cluster(
    tmp_path: Path, docker_settings: DockerSettings, engine_image: Callable[[str, str], str]
) -> Iterator[LocalCluster]:
    """An engine for the poison, and one of other messages."""
    image = engine_image("poison", POISON)
    worker = WorkerOptions(
        "local",
        tmp_path / "cluster" / "worker",
        tmp_path / "cluster" / "scratch",
        max_engines=2,
        runtime="docker",
        docker=replace(docker_settings, scratch_max_bytes=20 * MIB),
    )
    needs = ContainerNeeds(pids=PIDS, cpus=0.5, memory_bytes=1024 * MIB)
    with LocalCluster(tmp_path / "cluster", worker=worker) as running:
        for name in ("poisoned", "others"):
            running.declare(
                StreamDeclaration(
                    name,
                    image=image,
                    container=needs,
                    timeout_s=5.0,
                    max_attempts=2,
                    memory_payload_max_bytes=MIB,
                )
            )
            running.wait_for_engines(name, 1)
        yield running


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        (b"fill", "No space left on device"),
        (b"fork", "Resource temporarily unavailable"),
        (b"fork and hang", "5 s"),
    ],
    ids=["fills its disk", "forks until it may not", "forks and never ends"],
)
def test_what_fills_its_disk_or_forks_without_end_is_given_up_and_nobody_else_feels_it(
    cluster: LocalCluster, deed: bytes, reason: str
) -> None:
    others = StreamConnector("others", master=cluster.url, token=cluster.source_token, patience_s=60.0)
    with StreamConnector("poisoned", master=cluster.url, token=cluster.source_token) as source, others:
        poison, larger = source.send(deed), bytes(5 * MIB)
        for _ in range(20):
            assert others.send(larger).result(10) == len(larger), "their engine has a disk and processes of its own"
        with pytest.raises(HandlerFailed, match=reason):
            poison.result(90)
        (letter,) = cluster.client.dead_letters("poisoned").letters
        assert letter.attempts == 2
        assert source.send(b"well").result(90) == 4, "its stream is served, too"
