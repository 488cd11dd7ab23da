"""A command with a small disk of its own: a tmpfs in a mount name space, which ends with the command.

    python tests/benches/small_disk.py 200m FOLDER master run       as `harmonicio master run`, FOLDER being the disk

Nobody else sees the disk. :class:`Disk` is one that outlives its commands, and can be filled to the last byte. Both
take the right to mount, which every user has in a user name space of his own where the host allows that;
:func:`check_mounts` skips a test where not, but never in CI.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

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


class Disk:
    """A small disk for several commands one after another. Use it as a context manager.

    Args:
        folder: Where those commands see it.
    """

    def __init__(self, size: str, folder: Path) -> None:
        self._size, self._folder = size, str(folder)

    def __enter__(self) -> Self:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        script = 'mount -t tmpfs -o "size=$1,mode=700" none "$2" && echo mounted && exec cat'
        self._keeper = subprocess.Popen(
            [*_UNSHARE, "sh", "-c", script, "sh", self._size, self._folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != b"mounted\n":
            self._keeper.communicate()
            pytest.fail("the small disk could not be mounted")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeper.communicate()

    @property
    def on(self) -> list[str]:
        """What stands before a command that has this disk."""
        return ["nsenter", f"--target={self._keeper.pid}", "--user", "--mount", "--preserve-credentials", "--"]

    @property
    def seen_from_outside(self) -> Path:
        """Where everybody else sees it."""
        return Path(f"/proc/{self._keeper.pid}/root{self._folder}")

    def fill(self) -> None:
        """Make it as large as what it holds: not one byte more goes in."""
        usage = os.statvfs(self.seen_from_outside)
        self._resize(str((usage.f_blocks - usage.f_bfree) * usage.f_frsize))

    def free(self) -> None:
        self._resize(self._size)

    def _resize(self, size: str) -> None:
        subprocess.run([*self.on, "mount", "-o", f"remount,size={size}", "none", self._folder], check=True)


def main(size: str, folder: str, *command: str) -> None:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    script = 'mount -t tmpfs -o "size=$1,mode=700" none "$2" && shift 2 && exec "$@"'
    run = (sys.executable, "-m", "harmonicio.cli", *command)
    os.execvp(_UNSHARE[0], [*_UNSHARE, "sh", "-c", script, "sh", size, folder, *run])


if __name__ == "__main__":
    main(*sys.argv[1:])
