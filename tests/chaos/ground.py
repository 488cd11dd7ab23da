"""The ground that a run stands on: hosts with a network of their own, small disks, and an end that leaves nothing.

    unshare ── namespaces of this run: processes, network, mounts
       └── first process (ends what is orphaned)
              └── the run ── bridge 10.77.0.254 ─┬─ host ``master``  10.77.0.1
                                                 ├─ host ``w1``      10.77.0.11
                                                 ├─ host ``w2``      10.77.0.12
                                                 └─ host ``sources`` 10.77.0.20

All of it is the kernel's to clean up: when the run's first process ends, for whatever reason, every process of the run
is killed, and network and mounts vanish with them. Where this user is not root, the run is root in a user namespace.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ADDRESSES = {"master": "10.77.0.1", "w1": "10.77.0.11", "w2": "10.77.0.12", "sources": "10.77.0.20"}
_RUNNER = "10.77.0.254/24"
_INSIDE = "CHAOS_IS_INSIDE"
_NAMESPACES = ("--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
NEEDED = ("unshare", "nsenter", "ip", "iptables", "tc", "ss", "mount")


class NoGround(Exception):
    """This machine does not let the run have what it needs; the text says what."""


def command(*words: str) -> None:
    """Run a command that must succeed.

    Raises:
        NoGround: it did not; with what it said.
    """
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise NoGround(f"`{' '.join(words)}` failed: {(done.stderr or done.stdout).strip()}")


def why_not() -> str:
    """Return why a run is not possible on this machine; empty when it is."""
    missing = [each for each in NEEDED if shutil.which(each, path=_path()) is None]
    if missing:
        return f"These commands are missing: {', '.join(missing)}."
    try:
        command(*_unshare(), "true")
    except NoGround as error:
        return str(error)
    return ""


def is_inside() -> bool:
    return os.environ.get(_INSIDE) == "1"


def enter(arguments: Sequence[str]) -> None:
    """Become this program again, within namespaces of its own; does not return."""
    environ = {**os.environ, _INSIDE: "1", "PATH": _path()}
    os.execvpe("unshare", [*_unshare(), sys.executable, "-m", "chaos", *arguments], environ)


def be_first() -> None:
    """Go on in a child, while this first process waits for whatever ends; returns in the child only."""
    child = os.fork()
    if child == 0:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The child hears it, too.
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _unshare() -> tuple[str, ...]:
    return ("unshare", *(() if os.geteuid() == 0 else ("--map-root-user",)), *_NAMESPACES)


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


# ── hosts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_hosts() -> None:
    """Make the bridge and the hosts, each with one link to it."""
    command("mount", "-t", "tmpfs", "none", "/run")  # What `ip` and `iptables` write there vanishes with the run.
    Path("/run/netns").mkdir()
    command("ip", "link", "set", "lo", "up")
    command("ip", "link", "add", "bridge", "type", "bridge")
    command("ip", "addr", "add", _RUNNER, "dev", "bridge")
    command("ip", "link", "set", "bridge", "up")
    for name, address in ADDRESSES.items():
        command("ip", "netns", "add", name)
        command("ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        command("ip", "link", "set", f"to-{name}", "master", "bridge", "up")
        command("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        command("ip", "-n", name, "link", "set", "eth0", "up")
        command("ip", "-n", name, "link", "set", "lo", "up")


def on(host: str, *words: str) -> tuple[str, ...]:
    """Return the command that runs this on a host, as the same process."""
    return ("nsenter", f"--net=/run/netns/{host}", "--", *words)


# ── disks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A file system in memory that can be full: then it is as large as what it holds."""

    folder: Path
    size_bytes: int

    def mount(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command("mount", "-t", "tmpfs", "-o", f"size={self.size_bytes},mode=0700", "none", str(self.folder))

    def fill(self) -> None:
        """Leave no room; raises NoGround when it grows faster than one can look."""
        for _ in range(20):
            usage = shutil.disk_usage(self.folder)
            try:
                self._resize(usage.used)
            except NoGround:
                continue
            return
        self._resize(shutil.disk_usage(self.folder).used)

    def free(self) -> None:
        self._resize(self.size_bytes)

    def _resize(self, size_bytes: int) -> None:
        command("mount", "-o", f"remount,size={max(size_bytes, 4096)}", "none", str(self.folder))
