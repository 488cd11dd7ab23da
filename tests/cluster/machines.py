"""Machines that a test makes of this one: systemd, sshd, a Docker engine, an address, and a plug that can be pulled.

Each has namespaces and control groups of its own (``machine.sh``); all share one Debian, made once, below what each has
written. Their network is that of :class:`benches.hosts.Hosts`, whose first host is the one from which they are run. For
root only, on a kernel with control groups of version 1.
"""

from __future__ import annotations

import os
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from benches import packages
from benches.hosts import Hosts
from harmonicio.testing.waiting import wait_until

CONTROL = "control"
_SUITE = "bookworm"
_PACKAGES = (
    "busybox-static",
    "ca-certificates",
    "dbus",
    "docker.io",
    "iproute2",
    "iptables",
    "libpam-systemd",
    "openssh-server",
    "prometheus",
    "prometheus-node-exporter",
    "python3-venv",
    "sudo",
    "systemd-sysv",
)
_SILENT = ("console-getty.service", "systemd-journal-flush.service")
_BALLAST = ("man", "locale", "doc")
_SCRIPT = str(Path(__file__).with_name("machine.sh"))
_BOOT_S, _MAKE_S = 60.0, 600.0


class Machines:
    """Some machines; a context manager.

    Args:
        folder: For what they write; it is gone with them.
        base: For the Debian that they share, which stays for the next time.
        names: What they are called.
    """

    def __init__(self, folder: Path, base: Path, *names: str) -> None:
        if reason := _obstacle():
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
        packages.require("mmdebstrap", "ssh")
        self.names = names
        self.key = folder / "key"
        self._folder = folder
        # Other packages make another Debian.
        self._base = base.with_name(f"{base.name}-{zlib.crc32(' '.join(_PACKAGES).encode()):08x}")
        self._network = Hosts(CONTROL, *names)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._parts = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as parts:
            self._make_base()
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
            parts.enter_context(self._network)
            parts.callback(self._end_all)
            for name in self.names:
                self._prepare(name)
                self.boot(name)
            for name in self.names:
                self.wait_for(name)
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

    # ── what they are made of ────────────────────────────────────────────────────────────────────────────────────────

    def _make_base(self) -> None:
        """Make the Debian that all share, if that has not been done."""
        if self._base.exists():
            return
        draft = self._base.with_name(f"{self._base.name}.{os.getpid()}")
        draft.parent.mkdir(parents=True, exist_ok=True)
        paths = [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in _BALLAST]
        how = ("-q", "--variant=minbase", f"--include={','.join(_PACKAGES)}", "--dpkgopt=force-unsafe-io", *paths)
        words = ["mmdebstrap", *how, _SUITE, str(draft)]
        subprocess.run(words, check=True, capture_output=True, timeout=_MAKE_S)
        for unit in (*_SILENT, "prometheus.service", "prometheus-node-exporter.service"):
            (draft / "etc/systemd/system" / unit).symlink_to("/dev/null")
        (draft / "etc/resolv.conf").write_text("")  # No name server is asked for anything.
        (draft / "etc/ssh/sshd_config.d/test.conf").write_text("UseDNS no\nMaxStartups 100\n")
        (draft / "etc/docker").mkdir(exist_ok=True)
        (draft / "etc/docker/daemon.json").write_text('{"storage-driver": "overlay2", "bip": "172.29.0.1/16"}')
        draft.rename(self._base)

    def _prepare(self, name: str) -> None:
        """Put into a machine what only it has, or what is known only now."""
        upper = self._folder / name / "upper"
        keys = upper / "root" / ".ssh"
        keys.mkdir(parents=True)
        (upper / "root").chmod(0o700)
        keys.chmod(0o700)
        (keys / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        (keys / "authorized_keys").chmod(0o600)
        (upper / "etc").mkdir()
        known = [f"{self.address(each)} {each}" for each in self.names]
        (upper / "etc" / "hosts").write_text("\n".join(["127.0.0.1 localhost", *known, ""]))

    # ── power ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def boot(self, name: str) -> None:
        """Switch a machine on; :meth:`wait_for` it."""
        words = ("boot", self._group(name), str(self._folder / name), str(self._base))
        command = [*self.on(name), "bash", _SCRIPT, *words]
        with (self._folder / f"{name}.console").open("ab") as console:
            self._running[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)

    def wait_for(self, name: str) -> None:
        """Wait until a machine answers over ssh and systemd has started everything."""

        def state() -> str:
            assert self._running[name].poll() is None, (self._folder / f"{name}.console").read_text()[-2000:]
            asked = self.ssh(name, "systemctl is-system-running --wait; systemctl --failed --no-legend", check=False)
            return asked.stdout.strip()

        wait_until(lambda: state() == "running", _BOOT_S, what=f"{name} to run")

    def pull_the_plug(self, name: str) -> None:
        """Let a machine lose its power: all its processes die at once, and what it has written stays."""
        init = self._running.pop(name)
        init.kill()  # With --kill-child the first process of the machine dies, and the kernel kills the others.
        init.wait()
        wait_until(lambda: _sweeps(self._group(name)), _BOOT_S, what=f"{name} to have ended")

    def _end_all(self) -> None:
        for name in list(self._running):
            self.pull_the_plug(name)

    def _group(self, name: str) -> str:
        return f"harmonicio-test-{os.getpid()}-{name}"

    # ── network and commands ─────────────────────────────────────────────────────────────────────────────────────────

    def address(self, name: str) -> str:
        return self._network.addresses[name]

    def on(self, name: str = CONTROL) -> tuple[str, ...]:
        """Return what stands before a command that is to run in the network of a machine."""
        return self._network.on(name)

    def ssh(self, name: str, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine."""
        options = ["-i", str(self.key), *self.ssh_options(), "-o", "BatchMode=yes", "-o", "ConnectTimeout=3"]
        words = [*self.on(), "ssh", "-q", *options, f"root@{self.address(name)}", command]
        return subprocess.run(words, check=check, capture_output=True, text=True, timeout=120)

    def ssh_options(self) -> list[str]:
        """Return what ssh needs to know of machines that nobody has met before."""
        return ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]

    @contextmanager
    def unplugged(self, name: str) -> Iterator[None]:
        """A machine whose cable is pulled: nobody is told so, and what it runs goes on."""
        self._network.run(CONTROL, "ip", "link", "set", name, "down")
        try:
            yield
        finally:
            self._network.run(CONTROL, "ip", "link", "set", name, "up")

    @contextmanager
    def deaf(self, name: str, to: str, *matches: str) -> Iterator[Callable[[], int]]:
        """A machine hears nothing from another, or nothing of what matches; tells how many packets were lost by now."""
        with self._network.deaf(name, to, *matches) as lost:
            yield lost


def _obstacle() -> str:
    """Return why no machines can be made here; empty when they can."""
    if os.geteuid() != 0:
        return "only root can make machines"
    if not Path("/sys/fs/cgroup/memory").is_dir():
        return "this kernel has no control groups of version 1, in which machines are made"
    return ""


def _sweeps(group: str) -> bool:
    """Remove the control groups of a machine; return whether nothing was left in them."""
    swept = subprocess.run(["bash", _SCRIPT, "sweep", group], check=False, capture_output=True)
    time.sleep(0.05 * bool(swept.returncode))
    return swept.returncode == 0
