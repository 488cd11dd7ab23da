"""A small file system in memory at an engine's socket folder, so that its code cannot fill the worker's disk there.

For engines that run as another user than a worker that is root, and for whom a mount of ours is there: whoever makes
their containers must see the same mounts as we do. A mount outlives the worker, as its engine does.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from pathlib import Path

from harmonicio.core.errors import StorageError
from harmonicio.core.printable import one_line

#: A configuration, a board of 1,024 handlers and a socket need less.
VOLUME_BYTES, VOLUME_FILES = 4 * 1024**2, 64

_WITHIN_S = 10.0
_CREDENTIALS = struct.Struct("3i")


def shares_mounts(socket_path: str) -> bool:
    """Whether this process may mount, and whoever listens at a UNIX socket sees that: not from within a container."""
    if os.geteuid() != 0 or not socket_path:
        return False
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_WITHIN_S)
            probe.connect(socket_path)
            said = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        process, _, _ = _CREDENTIALS.unpack(said)
        return os.path.samestat(os.stat(f"/proc/{process}/ns/mnt"), os.stat("/proc/self/ns/mnt"))
    except OSError:  # It is not to be seen from here.
        return False


def mount_volume(folder: Path, owner: tuple[int, int]) -> None:
    """Mount a new volume at a folder, for a user and group id.

    Raises:
        StorageError: it cannot be mounted.
    """
    size = f"size={VOLUME_BYTES},nr_inodes={VOLUME_FILES}"
    options = f"nosuid,nodev,noexec,{size},mode=0700,uid={owner[0]},gid={owner[1]}"
    _run("mount", "-t", "tmpfs", "-o", options, "harmonicio", str(folder))


def unmount_volume(folder: Path) -> None:
    """Unmount what is mounted at a folder, if anything is; what still uses it may go on.

    Raises:
        StorageError: it cannot be unmounted.
    """
    if os.path.ismount(folder):
        _run("umount", "--lazy", str(folder))


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_WITHIN_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        said = one_line(str(getattr(error, "stderr", "") or error))[:200].rstrip(".")
        raise StorageError(f"{command[0]} of {command[-1]} failed: {said}.") from error
