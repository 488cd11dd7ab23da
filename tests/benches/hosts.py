"""Hosts with a network of their own: namespaces that a test makes, and that vanish with it. For root only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from benches.packages import require
from harmonicio.testing.waiting import wait_until

_NEEDED = ("unshare", "nsenter", "ip", "iptables", "sysctl", "sleep")


class Hosts:
    """Some hosts that reach each other, 10.78.0.1 being the first; a context manager.

    All links end in a bridge of the first one. A process that does nothing keeps each namespace.
    """

    def __init__(self, *names: str) -> None:
        if os.geteuid() and os.environ.get("CI") != "true":
            pytest.skip("only root may make networks")
        assert os.geteuid() == 0
        require(*_NEEDED)
        self.addresses = {name: f"10.78.0.{number}" for number, name in enumerate(names, start=1)}
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            for name in self.addresses:
                self._keepers[name] = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
                wait_until(lambda pid=self._keepers[name].pid: _runs(pid, "sleep"))
                self.run(name, "ip", "link", "set", "lo", "up")
            self._link(*self.addresses)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for keeper in self._keepers.values():
            keeper.kill()
            keeper.wait()

    def _link(self, first: str, *others: str) -> None:
        self.run(first, "ip", "link", "add", "bridge", "type", "bridge")
        self.run(first, "ip", "addr", "add", f"{self.addresses[first]}/24", "dev", "bridge")
        self.run(first, "ip", "link", "set", "bridge", "up")
        for name in others:
            pid = str(self._keepers[name].pid)
            self.run(first, "ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pid)
            self.run(first, "ip", "link", "set", name, "master", "bridge", "up")
            self.run(name, "ip", "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
            self.run(name, "ip", "link", "set", "eth0", "up")

    def on(self, name: str) -> tuple[str, ...]:
        """Return what stands before a command that is to run on this host."""
        return ("nsenter", f"--net=/proc/{self._keepers[name].pid}/ns/net", "--")

    def run(self, name: str, *words: str) -> None:
        subprocess.run([*self.on(name), *words], check=True, stdout=subprocess.DEVNULL)

    @contextmanager
    def deaf(self, name: str, to: str, *matches: str) -> Iterator[Callable[[], int]]:
        """A host hears nothing from another, or nothing of what matches: one way of a partition.

        Yields:
            What tells how many packets were lost by now.
        """
        rule = ("INPUT", "-s", self.addresses[to], *matches, "-j", "DROP")

        def lost() -> int:
            words = [*self.on(name), "iptables", "-w", "-nvxL", "INPUT"]
            return int(
                subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[2].split()[0]
            )

        self.run(name, "iptables", "-w", "-I", *rule)
        try:
            yield lost
        finally:
            self.run(name, "iptables", "-w", "-D", *rule)


def _runs(pid: int, program: str) -> bool:
    return Path(f"/proc/{pid}/comm").read_text().strip() == program
