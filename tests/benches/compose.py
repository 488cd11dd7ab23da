"""The cluster of deploy/compose: started from its own file by the compose that this machine has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import docker

from benches import packages
from harmonicio.worker.containers.docker_host import DockerHost

FILE = Path(__file__).parents[2] / "deploy" / "compose" / "compose.yaml"
PROJECT_LABEL, SERVICE_LABEL = "com.docker.compose.project", "com.docker.compose.service"
#: Of the plugin, and of Debian's package.
COMMANDS = (("docker", "compose"), ("docker-compose",))
_COMMAND_S = 120.0


def obstacle() -> str:
    """Return why no compose can be had here; empty when one can."""
    return "" if _known() else packages.obstacle("docker-compose")


def commands() -> list[tuple[str, ...]]:
    """Return every compose of this machine; where there is none, Debian's is installed."""
    if not _known():
        packages.provide("docker-compose")
    return _known()


def _known() -> list[tuple[str, ...]]:
    return [each for each in COMMANDS if shutil.which(each[0]) and _answers(*each, "version")]


def _answers(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=_COMMAND_S).returncode == 0


@dataclass(frozen=True, slots=True)
class ComposeCluster:
    """One project of the compose file.

    Attributes:
        command: The compose.
        url: The Docker engine.
        settings: What the compose file takes from the environment.
    """

    command: tuple[str, ...]
    url: str
    settings: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.settings["COMPOSE_PROJECT_NAME"]

    @property
    def master_url(self) -> str:
        return f"http://127.0.0.1:{self.settings['MASTER_PORT']}"

    def attempt(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Give compose a command."""
        return subprocess.run(
            [*self.command, "-f", str(FILE), *arguments],
            env={**os.environ, "DOCKER_HOST": self.url, **self.settings},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Give compose a command that must succeed, and return what it printed."""
        done = self.attempt(*arguments, stdin=stdin)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def administer(self, *arguments: str, stdin: str = "") -> str:
        """Run ``harmonicio`` beside the master, whose tokens it finds there."""
        return self.run("exec", "-T", "master", "harmonicio", *arguments, stdin=stdin)

    def engines(self) -> list[str]:
        """Return the ids of the engines."""
        return [each["engine"] for each in json.loads(self.administer("engine", "ls", "--json"))]

    def containers(self) -> dict[str, dict[str, object]]:
        """Return everything that is known of the containers of the file, by the names of their services."""
        with closing(DockerHost(self.url)) as host:
            found = host.containers({PROJECT_LABEL: self.name})
            return {each["Labels"][SERVICE_LABEL]: host.inspect(each["Id"]) for each in found}

    def left_behind(self, engines: Sequence[str]) -> list[str]:
        """Return what there is of this cluster: containers, volumes, networks, and engines with these ids."""
        ours = {"label": f"{PROJECT_LABEL}={self.name}"}
        with closing(docker.APIClient(base_url=self.url)) as api:
            engines_left = [api.containers(all=True, filters={"name": f"harmonicio-{each}"}) for each in engines]
            volumes = api.volumes(filters=ours)["Volumes"] or []
            left = [*api.containers(all=True, filters=ours), *volumes, *api.networks(filters=ours), *engines_left]
        return [str(each) for each in left if each]
