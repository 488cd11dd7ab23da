"""A command with a small disk of its own: a tmpfs in a mount name space, which ends with the command.

    python tests/benches/small_disk.py 200m FOLDER master run       as `harmonicio master run`, FOLDER being the disk

Nobody else sees the disk. It takes the right to mount, which every user has in a user name space of his own where the
host allows that; :func:`check_mounts` skips a test where not, but never in CI.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_UNSHARE = ("unshare", "--map-root-user", "--mount")


def program(size: str, folder: Path) -> list[str]:
    """Return what stands between the interpreter and a command, so that the command has this disk."""
    return [__file__, size, str(folder)]


def check_mounts() -> None:
    """Skip the test where this user may not mount; in CI that is an error."""
    if shutil.which("unshare") is None or subprocess.run([*_UNSHARE, "true"], capture_output=True).returncode:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must be able to mount a small disk")
        pytest.skip("this user may not mount a small disk")


def main(size: str, folder: str, *command: str) -> None:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    script = 'mount -t tmpfs -o "size=$1,mode=700" none "$2" && shift 2 && exec "$@"'
    run = (sys.executable, "-m", "harmonicio.cli", *command)
    os.execvp(_UNSHARE[0], [*_UNSHARE, "sh", "-c", script, "sh", size, folder, *run])


if __name__ == "__main__":
    main(*sys.argv[1:])
