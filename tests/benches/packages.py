"""Programs that tests need: what this machine lacks is installed from Debian's packages, where that can be done."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

#: Programs, and which package of Debian has each.
PACKAGES = {
    "debootstrap": "debootstrap",
    "docker-compose": "docker-compose",
    "dockerd": "docker.io",
    "ip": "iproute2",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "nsenter": "util-linux",
    "ss": "iproute2",
    "ssh": "openssh-client",
    "sysctl": "procps",
    "tc": "iproute2",
    "unshare": "util-linux",
}
_LOCK = Path("/run/lock/harmonicio-test-packages")
_INSTALL_S = 300.0


def obstacle(*programs: str) -> str:
    """Return why these programs cannot be had here; empty when they can."""
    missing = _missing(programs)
    if not missing or (os.geteuid() == 0 and shutil.which("apt-get")):
        return ""
    why = "only root can install them" if os.geteuid() else "there is no apt-get to install them"
    return f"{', '.join(missing)} missing: {why}"


def require(*programs: str) -> None:
    """Have these programs; where they cannot be had, skip the test, which in CI is an error."""
    if reason := obstacle(*programs):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    provide(*programs)


def provide(*programs: str) -> None:
    """Install these programs, if they are not here. Test processes that run side by side do so one after another."""
    if not _missing(programs):
        return
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (missing := _missing(programs)):
            return
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        packages = sorted({PACKAGES[each] for each in missing})
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        for command in (["apt-get", "update", "-qq"], install):
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=_INSTALL_S)


def _missing(programs: tuple[str, ...]) -> list[str]:
    return [each for each in programs if shutil.which(each) is None]
