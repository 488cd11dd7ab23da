"""A site: an inventory of machines, the playbook run on it, and a source that sends to the cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

from cluster.machines import Machines

from harmonicio.testing.waiting import wait_until

STREAM = "plates"
_HANDLER = """
    import hashlib, os, time
    from harmonicio.engine import handler

    @handler
    def look(message):
        time.sleep(float(message.metadata.get("takes_s", 0)))
        return hashlib.sha256(message.payload).hexdigest()
"""
_STREAMS = """
    [streams.plates]
    handler = "/etc/harmonicio/handlers/look.py"
    engines = 4
"""
_RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)
_PLAY_S = 600.0


class Site:
    """The first machine is the master, the others are workers.

    Args:
        folder: Gets inventory, streams, handlers, and what the playbook keeps.
        deploy: ``deploy/ansible`` of a checkout.
    """

    def __init__(self, machines: Machines, folder: Path, deploy: Path) -> None:
        self._machines = machines
        self._deploy = deploy
        self.folder = folder
        self.settings = folder / "cluster" / "harmonicio.toml"
        master, *workers = machines.names
        (folder / "handlers").mkdir()
        (folder / "handlers" / "look.py").write_text(dedent(_HANDLER))
        (folder / "streams.toml").write_text(dedent(_STREAMS))
        hosts = {name: {"ansible_host": machines.address(name)} for name in machines.names}
        inventory = {
            "all": {
                "vars": {
                    "ansible_user": "root",
                    "ansible_ssh_private_key_file": str(machines.key),
                    "ansible_ssh_common_args": " ".join(machines.ssh_options()),
                    "harmonicio_handlers": str(folder / "handlers"),
                    "harmonicio_streams": str(folder / "streams.toml"),
                    "harmonicio_max_engines": 4,
                    "harmonicio_command": str(Path(sys.executable).with_name("harmonicio")),
                },
                "children": {
                    "master": {"hosts": {master: hosts[master]}},
                    "workers": {"hosts": {name: hosts[name] for name in workers}},
                },
            }
        }
        (folder / "inventory.json").write_text(json.dumps(inventory))

    def play(self, playbook: str = "site.yaml", **variables: str) -> dict[str, int]:
        """Run a playbook; return how many changes it has made on each machine.

        Raises:
            AssertionError: a machine was not reached, or a task failed.
        """
        words = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.folder / "inventory.json")]
        extra = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        run = subprocess.run(
            [*self._machines.on(), *words, *extra, playbook],
            cwd=self._deploy,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCAL_TEMP": str(self.folder / "ansible")},
            capture_output=True,
            text=True,
            timeout=_PLAY_S,
            check=False,
        )
        assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
        return {name: int(changed) for name, _, changed, *_ in _RECAP.findall(run.stdout)}

    def command(self, *words: str) -> str:
        """Run a command of HarmonicIO on the host from which the cluster is run; return what it prints."""
        run = subprocess.run(
            [*self._machines.on(), sys.executable, "-m", "harmonicio.cli", "--settings", str(self.settings), *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return run.stdout

    def release(self, name: str) -> str:
        """Return which release the service of a machine runs."""
        service = "harmonicio-master" if name == self._machines.names[0] else "harmonicio-worker"
        return self._machines.ssh(name, f"systemctl show -p ExecStart --value {service}").stdout.split("/")[3]

    @contextmanager
    def sending(self, count: int, size: int, per_s: float, takes_s: float = 0.0) -> Iterator[Sending]:
        """Have a source send to the cluster from the host from which it is run."""
        script, numbers = Path(__file__).with_name("source.py"), (count, size, per_s, takes_s)
        words = [*self._machines.on(), sys.executable, str(script), str(self.settings), *map(str, numbers)]
        said = self.folder / "source.out"
        with said.open("wb") as out, subprocess.Popen(words, stdout=out, cwd=self.folder) as process:
            try:
                yield Sending(process, said)
            finally:
                process.kill()


class Sending:
    """A source that sends."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self._process = process
        self._said = said

    @property
    def last(self) -> Any:
        """What it said last: how many messages it has sent, and how many of them are in which state."""
        lines = self._said.read_text().splitlines()
        return json.loads(lines[-1]) if lines else {"sent": 0, "states": {}}

    def wait_for(self, done: int, within_s: float = 60.0) -> None:
        """Wait until so many messages are done."""
        wait_until(lambda: self.last["states"].get("done", 0) >= done, within_s, what=f"{done} messages to be done")

    def stop(self) -> None:
        """Let it send no more, and wait for what it has sent."""
        self._process.terminate()

    def finish(self, within_s: float = 300.0) -> Any:
        """Return its last words."""
        assert self._process.wait(within_s) == 0, self.last
        return self.last
