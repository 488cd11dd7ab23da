"""Master and worker of a cluster as a user starts them: commands, which can be killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from harmonicio.control.client import MasterClient
from harmonicio.core.errors import HarmonicIOError

#: A worker gives its engines 30 s to drain, and has to tell its master.
STOP_WITHIN_S = 45
COMMAND = ("-m", "harmonicio.cli")


def free_ports() -> tuple[int, int]:
    """Return two ports that nobody listens on, for roles that must come back at the same address."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


class Roles:
    """Master and worker as processes of their own, on ports that stay the same over a restart.

    Args:
        host: Address of the master.
        settings: Others, by the names of their variables without ``HARMONICIO_``.
    """

    def __init__(self, home: Path, port: int, data_port: int, host: str = "127.0.0.1", **settings: str) -> None:
        self.url = f"http://{host}:{port}"
        self._environ = {
            **os.environ,
            "HARMONICIO_HOME": str(home),
            "HARMONICIO_MASTER_URL": self.url,
            "HARMONICIO_MASTER_HOST": host,
            "HARMONICIO_MASTER_PORT": str(port),
            "HARMONICIO_MASTER_DATA_PORT": str(data_port),
            "HARMONICIO_WORKER_MAX_ENGINES": "2",
            **{f"HARMONICIO_{name}": value for name, value in settings.items()},
        }
        self._home = home

    def start(
        self,
        *words: str,
        through: Sequence[str] = COMMAND,
        on: Sequence[str] = (),
        log: IO[bytes] | None = None,
        takes_orders: bool = False,
        **settings: str,
    ) -> subprocess.Popen[bytes]:
        """Start a command, like ``"worker", "run"``.

        Args:
            through: The program that runs it.
            on: What stands before all that, and has it run elsewhere.
            log: Where its output goes; by default to that of the test.
            takes_orders: Its standard input is a pipe of ours.
            settings: Of this one alone, written as those of all.
        """
        return subprocess.Popen(
            [*on, sys.executable, *through, *words],
            env=self.environ(**settings),
            stdin=subprocess.PIPE if takes_orders else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def environ(self, **settings: str) -> dict[str, str]:
        """Return the environment of a command, with these settings of its own."""
        return {**self._environ, **{f"HARMONICIO_{name}": value for name, value in settings.items()}}

    @contextmanager
    def running(
        self, role: str, *flags: str, through: Sequence[str] = COMMAND, on: Sequence[str] = ()
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a role, or ``up``, until the block ends; ``through`` and ``on`` as :meth:`start` has them."""
        process = self.start(role, *(() if role == "up" else ("run",)), *flags, through=through, on=on)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                pytest.fail(f"The {role} did not stop within {STOP_WITHIN_S} s of SIGTERM.")

    @property
    def worker_folder(self) -> Path:
        return self._home / "worker"

    def token(self, role: str) -> str:
        return (self._home / "master" / "tokens" / f"{role}.token").read_text().strip()

    def client(self) -> MasterClient:
        return MasterClient(self.url, self.token("admin"))

    def is_up(self) -> bool:
        try:
            with MasterClient(self.url) as client:
                client.ready()
        except HarmonicIOError:
            return False
        return True
