"""A site: an inventory of machines, the playbook run on it, and a source that sends to the cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

from cluster.machines import Machines

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

    def status(self) -> Any:
        """Return the cluster as an administrator sees it."""
        return json.loads(self.command("status", "--json"))
