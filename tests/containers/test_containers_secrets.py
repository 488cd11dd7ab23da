"""Secrets are looked for in a live container: by the Docker engine, on its host, and in what it leaves when it dies."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control import tickets
from harmonicio.control.client import MasterClient
from harmonicio.control.json_codec import dumps
from harmonicio.control.messages import LeaseRequest
from harmonicio.core.errors import HandlerFailed
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.containers.docker_host import DockerHost

CANARY = "canary-that-nobody-may-see-0123456789"
URL = f"postgresql://haste:{CANARY}@127.0.0.1:9/features"
STORING = """
import logging
from harmonicio.engine import handler

@handler
def store(message, *, database, secret_key):
    logging.warning("trying %s", database)
    raise ConnectionRefusedError(f"cannot connect to {database}, password={secret_key}")
"""


def secrets_of(cluster: LocalCluster, folder: Path, engine: str) -> dict[str, str]:
    """Return all that nobody may see, by what it is."""
    with closing(sqlite3.connect(folder / "master" / "master.sqlite")) as database:
        (key,) = database.execute("SELECT value FROM facts WHERE name = 'ticket_key'").fetchone()
    found = {f"token of {role}": cluster.token(role) for role in (Role.ADMIN, Role.SOURCE, Role.WORKER, Role.VIEWER)}
    with MasterClient(cluster.url, cluster.source_token) as source:
        grant = source.request_leases(LeaseRequest("s", "canary", 1))
    found |= {f"ticket of {each.lease}": each.ticket for each in grant.leases}
    worker = tickets.derive_key(key, "worker", "local")
    keys = {"master's key": key, "worker's key": worker, "engine's key": tickets.derive_key(worker, "engine", engine)}
    return found | keys | {"somebody's own": CANARY, "ticket of the backlog": grant.backlog.ticket}


def shown_of(docker_host: DockerHost, name: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield where something of a live container is shown, and what it says."""
    inspected = docker_host.inspect(name)
    yield "what the Docker engine shows", json.dumps(inspected)
    first = psutil.Process(inspected["State"]["Pid"])
    for each in (first, *first.children(recursive=True)):
        for what in ("cmdline", "environ"):
            yield f"{what} of {each.pid}", Path(f"/proc/{each.pid}/{what}").read_bytes().decode(errors="replace")
    yield "its log", "".join(str(entry) for entry in docker_host.log(name))
    yield from left_in(folder)


def left_in(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield logs, and the files of the worker and its engines that not their owner alone may read.

    Images of scratch volumes are as large as what may be used.
    """
    for file in [*folder.glob("worker/**/*"), *folder.glob("scratch/**/*")]:
        is_for_others = file.is_file() and (file.stat().st_mode & 0o077 or "log" in file.name)
        if is_for_others and file.stat().st_size < 2**20:
            yield str(file.relative_to(folder)), file.read_bytes().decode(errors="replace")


@pytest.mark.row("S20")
def test_no_secret_is_in_a_live_container_in_its_log_or_in_what_it_leaves(
    cluster: LocalCluster,
    connect: Callable[..., StreamConnector],
    docker_host: DockerHost,
    engine_image: Callable[[str, str], str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    image, parameters = engine_image("storing", STORING), {"database": URL, "secret_key": CANARY}
    cluster.declare(StreamDeclaration("s", image=image, max_attempts=1, parameters=parameters))
    cluster.wait_for_engines("s", 1)
    (engine,) = cluster.client.engines()
    folder, name = tmp_path / "cluster", f"harmonicio-{engine.engine}"
    secrets = secrets_of(cluster, folder, engine.engine)
    with connect("s", patience_s=60.0) as connector, pytest.raises(HandlerFailed, match="cannot connect") as failed:
        connector.send(b"").result(30)
    places = dict(shown_of(docker_host, name, folder)) | {"what its source is told": str(failed.value)}
    assert "trying postgresql://haste:(hidden)@" in places["its log"]
    os.kill(docker_host.inspect(name)["State"]["Pid"], signal.SIGKILL)
    wait_until(lambda: [each.engine for each in cluster.client.engines()] not in ([], [engine.engine]), 60)
    with MasterClient(cluster.url, cluster.token(Role.VIEWER)) as viewer:
        (letter,) = viewer.dead_letters("s").letters
        shown = (viewer.dead_letter("s", letter.message), viewer.status(), viewer.streams(), viewer.engines())
    places |= {"what a viewer sees": dumps(shown).decode(), "log": caplog.text, **dict(left_in(folder))}
    found = [f"{what} in {where}" for where, text in places.items() for what, each in secrets.items() if each in text]
    assert not found
