"""A site: an inventory of machines, the playbook run on it, and a source that sends to the cluster."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.machines import Machines
from cluster.sending import Sending

from harmonicio.testing.waiting import wait_until

IS_FULL = os.environ.get("CLUSTER_TEST") == "full"
GIVEN = Path(__file__).with_name("given")
_JOURNAL = "/var/lib/harmonicio/handled.jsonl"
_RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)
_SOURCE = Path(__file__).with_name("source.py")
_PLAY_S, _ENGINES_S = 600.0, 90.0


def tell(counted: str) -> None:
    """Print what a test has counted, for whoever reads the output of ``pytest -s``."""
    sys.stdout.write(f"\n{counted}\n")
    sys.stdout.flush()


class Site:
    """The first machine is the master, the others are workers.

    Args:
        folder: Gets inventory, streams, handlers, and what the playbook keeps.
        deploy: ``deploy/ansible`` of a checkout.

    Attributes:
        is_installed: Some release is.
        is_current: This checkout is installed on all machines.
    """

    def __init__(self, machines: Machines, folder: Path, deploy: Path) -> None:
        self._machines = machines
        self._deploy = deploy
        self.folder = folder
        self.settings = folder / "cluster" / "harmonicio.toml"
        self.is_installed = self.is_current = False
        self._sources = 0
        master, *workers = machines.names
        hosts = {name: {"ansible_host": machines.address(name)} for name in machines.names}
        inventory = {
            "all": {
                "vars": {
                    "ansible_user": "root",
                    "ansible_ssh_private_key_file": str(machines.key),
                    "ansible_ssh_common_args": " ".join(machines.ssh_options()),
                    "harmonicio_handlers": str(GIVEN / "handlers"),
                    "harmonicio_streams": str(GIVEN / "streams.toml"),
                    "harmonicio_max_engines": 2,
                    "harmonicio_command": str(Path(sys.executable).with_name("harmonicio")),
                },
                "children": {
                    "master": {"hosts": {master: hosts[master]}},
                    "workers": {"hosts": {name: hosts[name] for name in workers}},
                    "monitoring": {"hosts": {master: hosts[master]}},
                },
            }
        }
        (folder / "inventory.json").write_text(json.dumps(inventory))

    def play(self, playbook: str = "site.yaml", *options: str, **variables: Any) -> dict[str, int]:
        """Run a playbook with these options and variables; return how many changes it has made on each machine.

        Raises:
            AssertionError: a machine was not reached, or a task failed.
        """
        words = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.folder / "inventory.json")]
        extra = [*options, "-e", json.dumps(variables)]
        run = subprocess.run(
            [*self._machines.on(), *words, *extra, playbook],
            cwd=self._deploy,
            env={
                **os.environ,
                "ANSIBLE_NOCOLOR": "1",
                # Other machines have these addresses, too: those of another run.
                "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp"),
                "ANSIBLE_LOCAL_TEMP": str(self.folder / "ansible"),
                "ANSIBLE_LOG_PATH": str(self.folder / "ansible.log"),  # With the time of each task.
            },
            capture_output=True,
            text=True,
            timeout=_PLAY_S,
            check=False,
        )
        assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
        self.is_installed = playbook == "site.yaml"
        self.is_current = self.is_installed and not (options or variables)
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

    def scale(self, **engines: int) -> None:
        """Have so many engines of each of these streams, fewer first."""
        for stream, count in sorted(engines.items(), key=lambda item: item[1]):
            self.command("stream", "scale", stream, str(count))

    def engines(self, stream: str = "plates") -> dict[str, str]:
        """Return the engines of a stream that run, each with its worker."""
        engines = json.loads(self.command("engine", "ls", "--stream", stream, "--json"))
        return {each["engine"]: each["worker"] for each in engines if each["state"] in ("idle", "busy")}

    def wait_for_engines(self, stream: str = "plates", **expected: int) -> None:
        """Wait until so many engines of a stream run on each worker, and none elsewhere."""

        def are_there() -> bool:
            return Counter(self.engines(stream).values()) == expected

        try:
            wait_until(are_there, _ENGINES_S, what=f"engines of {stream} on {expected}")
        except TimeoutError as error:
            error.add_note(self.command("status"))
            for name in self._machines.names:
                error.add_note(self._machines.ssh(name, "journalctl -u 'harmonicio-*' -n 30 --no-pager").stdout)
            raise

    def backlog(self, stream: str = "plates") -> dict[str, Any]:
        """Return what the master says of a stream's backlog."""
        found: dict[str, Any] = json.loads(self.command("stream", "show", stream, "--json"))["backlog"]
        return found

    def rows(self, stream: str) -> list[dict[str, str]]:
        """Return the feature rows of a stream."""
        self.command("report", stream, "--output", str(self.folder / "report"))
        with (self.folder / "report" / "rows.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def journal(self, name: str) -> list[dict[str, Any]]:
        """Return what handlers of a machine have written down."""
        lines = self._machines.ssh(name, f"[ ! -e {_JOURNAL} ] || cat {_JOURNAL}").stdout.splitlines()
        return [json.loads(line) for line in lines]

    def handled(self, ids: Iterable[str]) -> dict[str, list[str]]:
        """Return the machines on which handlers were given each of these messages, once for each time.

        Raises:
            AssertionError: one was given to none.
        """
        machines: dict[str, list[str]] = {each: [] for each in ids}
        for name in self._machines.names[1:]:
            for each in self.journal(name):
                if (message := each.get("begun")) in machines:
                    machines[message].append(name)
        assert all(machines.values())
        return machines

    def again(self, ids: Iterable[str], lost: str = "") -> int:
        """Return how often handlers were given one of these messages once more.

        Raises:
            AssertionError: that did not follow from the loss of this machine: others had it more than once.
        """
        handled = self.handled(ids)
        unexplained = {each: on for each, on in handled.items() if len(on) - on.count(lost) > 1 or on.count(lost) > 1}
        assert not unexplained
        return sum(map(len, handled.values())) - len(handled)

    def release(self, name: str) -> str:
        """Return which release the service of a machine runs."""
        service = "harmonicio-master" if name == self._machines.names[0] else "harmonicio-worker"
        return self._machines.ssh(name, f"systemctl show -p ExecStart --value {service}").stdout.split("/")[3]

    @contextmanager
    def sending(
        self,
        count: int,
        per_s: float,
        *,
        stream: str = "plates",
        size_bytes: int = 1_000_000,
        python: str = sys.executable,
        **metadata: Any,
    ) -> Iterator[Sending]:
        """Have a source send to the cluster from the host from which it is run.

        Args:
            python: What runs it; another release has an environment of its own.
            metadata: What the handler is told with each message.
        """
        order = {"stream": stream, "count": count, "size_bytes": size_bytes, "per_s": per_s, "metadata": metadata}
        words = [*self._machines.on(), python, str(_SOURCE), str(self.settings), json.dumps(order)]
        self._sources += 1
        said = self.folder / f"source-{self._sources}.out"
        with said.open("wb") as out, subprocess.Popen(words, stdout=out, cwd=self.folder) as process:
            try:
                yield Sending(process, said)
            finally:
                process.kill()
