"""A real Docker engine for tests: the one that answers, else Debian's own, installed and started here.

No image registry is needed: the base of all images is made of Debian packages, and what goes into them of wheels.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Self

import docker

from benches import packages
from harmonicio.core.errors import HarmonicIOError, NotFound
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.containers.docker_host import DockerHost
from harmonicio.worker.containers.docker_records import BuildOrder

#: What images are made from here, in place of ``python:3.11-slim``.
BASE_IMAGE = "harmonicio-test/python"
SUITE = "bookworm"  # Its Python is the one for which our images' wheels are.
_MAKE_S, _START_S, _STOP_S = 300.0, 60.0, 30.0
#: Nothing of these is needed to run Python, and images are copied around.
_BALLAST = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt/lists")


def answering_engine() -> str:
    """Return the URL of the Docker engine that this machine has; empty when none answers."""
    with closing(DockerHost()) as host:
        return host.url if _answers(host.url) else ""


def obstacle() -> str:
    """Return why no Docker engine of our own can be started here; empty when one can."""
    if os.geteuid() != 0:
        return "no Docker engine answers, and only root can start one"
    return packages.obstacle("dockerd")


class DockerEngine:
    """Debian's Docker engine with a data root and a socket of its own; started and ended here.

    Args:
        folder: Everything that it keeps; images stay for the next time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # The path of a UNIX socket is short.
        self.url = f"unix:///run/harmonicio-test-{os.getpid()}.sock"
        self._state = Path(f"/run/harmonicio-test-{os.getpid()}")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        packages.provide("dockerd")
        self._folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        # What containers that died with a Docker engine leave mounted, and what each engine does to its data root.
        for path in (*(self._state / "netns").glob("*"), self._folder / "data"):
            subprocess.run(["umount", str(path)], check=False, capture_output=True)
        shutil.rmtree(self._state, ignore_errors=True)
        for left in self._state.parent.glob(f"{self._state.name}.*"):
            left.unlink(missing_ok=True)

    def start(self) -> None:
        """Start it and wait until it answers."""
        arguments = [
            "--data-root",
            self._folder / "data",
            "--exec-root",
            self._state,
            "--pidfile",
            f"{self._state}.pid",
        ]
        with open(self._folder / "dockerd.log", "ab") as log:
            self._process = subprocess.Popen(
                ["dockerd", "--host", self.url, *map(str, arguments)], stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self._is_up, _START_S, what=f"the Docker engine (see {self._folder / 'dockerd.log'})")

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it; with SIGKILL, its containers' processes live on."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(_STOP_S)
        # What it has started dies with it; where nobody waits for such processes, the next one takes them for alive.
        (self._state / "containerd" / "containerd.pid").unlink(missing_ok=True)

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"dockerd has ended: {self._folder / 'dockerd.log'}"
        return _answers(self.url)


def _answers(url: str) -> bool:
    with closing(DockerHost(url)) as host:
        try:
            host.check()
        except HarmonicIOError:
            return False
    return True


def make_base_image(url: str, folder: Path) -> None:
    """Make the base image of Debian packages, unless it is there."""
    if _has_image(url, BASE_IMAGE):
        return
    packages.provide("debootstrap")
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    included = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", included, SUITE, str(root)],
        check=True,
        capture_output=True,
        timeout=_MAKE_S,
    )
    for path in _BALLAST:
        shutil.rmtree(root / path, ignore_errors=True)
    with (
        closing(docker.APIClient(base_url=url, timeout=int(_MAKE_S))) as api,
        subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar,
    ):
        assert tar.stdout is not None
        api.import_image_from_data(tar.stdout, repository=BASE_IMAGE)
    shutil.rmtree(root)


def _has_image(url: str, name: str) -> bool:
    with closing(DockerHost(url)) as host:
        try:
            host.image(name)
        except NotFound:
            return False
    return True


def build(host: DockerHost, folder: Path, base: str, name: str, lines: str, files: Mapping[str, str]) -> str:
    """Build an image of some files and lines of a Dockerfile, and return its name."""
    context = folder / f"context-{name}"
    context.mkdir(exist_ok=True)
    for file, text in files.items():
        (context / file).write_text(text)
    (context / "Dockerfile").write_text(f"FROM {base}\n{lines}\n")
    tag = f"harmonicio-test/{name}:latest"
    host.build(BuildOrder(context, tag, network="none"), lambda line: None)
    return tag
