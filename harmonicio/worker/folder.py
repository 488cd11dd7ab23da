"""The worker's data folder: one worker at a time, and nobody else may read it.

<folder>/worker.lock                held for as long as the worker lives; says who that is, whatever its name
<folder>/engines/<engine>/          one for each engine: its bond, and what the runtime needs to know of it
<folder>/engines/<engine>/socket/   what the engine itself may see and change: its control socket, its handler board
<folder>/engine-logs/<engine>.log   the ends of the logs of the last engines that have ended
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from harmonicio.control.locked_folder import OWNER_ONLY_FOLDER, LockedFolder
from harmonicio.core.errors import StorageError
from harmonicio.transport.thread_pool import ThreadPool
from harmonicio.worker.removal import remove_folder
from harmonicio.worker.small_volume import mount_volume, unmount_volume

_log = logging.getLogger(__name__)

SOCKET_FOLDER = "socket"
_BOND_NAME = "bond"


class DataFolder(LockedFolder):
    """The worker's folder, in use. A thread of its own removes what is not needed any more: that may take a while.

    Attributes:
        identity: Random, and the same for as long as the folder exists.

    Raises:
        Conflict, StorageError: as :class:`LockedFolder` says.
    """

    def __init__(self, path: Path) -> None:
        self._removals = ThreadPool(1, "worker-removal")
        super().__init__(path, "worker", inside="engines")
        self.identity = self._drawn_once()

    def _drawn_once(self) -> str:
        if not (drawn := os.pread(self._lock_file, 64, 0)):
            drawn = secrets.token_hex(8).encode()
            os.pwrite(self._lock_file, drawn, 0)
        return drawn.decode("ascii", "replace")

    @property
    def engines(self) -> Path:
        return self.path / "engines"

    def of(self, engine: str) -> Path:
        """Return the folder of an engine."""
        return self.engines / engine

    def socket_of(self, engine: str) -> Path:
        """Return the engine's own part of its folder."""
        return self.of(engine) / SOCKET_FOLDER

    def add(self, engine: str, bond: str, owner: tuple[int, int] | None = None, *, is_bounded: bool = False) -> Path:
        """Make the folder of a new engine.

        Args:
            owner: User and group id to whom the engine's own part belongs; else it is ours.
            is_bounded: The engine's own part is a small file system of its own; needs an owner and root.

        Raises:
            StorageError: it cannot be made.
        """
        folder = self.of(engine)
        try:
            folder.mkdir(mode=OWNER_ONLY_FOLDER)
            (folder / _BOND_NAME).write_text(bond, encoding="ascii")
            self.socket_of(engine).mkdir(mode=OWNER_ONLY_FOLDER)
            if owner is not None and is_bounded:
                mount_volume(self.socket_of(engine), owner)
            elif owner is not None:
                os.chown(self.socket_of(engine), *owner)
        except OSError as error:
            raise StorageError(f"The folder {folder} cannot be made: {error.strerror}.") from error
        return folder

    def bond(self, engine: str) -> str:
        """Return the bond with which an engine was started; empty when that is not known any more."""
        try:
            return (self.of(engine) / _BOND_NAME).read_text(encoding="ascii")
        except (OSError, ValueError):
            return ""

    def remove(self, engine: str) -> None:
        """Begin to remove the folder of an engine that has ended."""
        self._removals.submit(_remove, self.of(engine))

    def remove_strangers(self, known: set[str]) -> None:
        """Begin to remove what belongs to none of these engines: starts that were cut off."""
        for folder in self.engines.iterdir():
            if folder.name not in known:
                self.remove(folder.name)

    def close(self) -> None:
        """Wait for what is being removed, and let go of the folder; may be called more than once."""
        self._removals.shutdown()
        super().close()


def _remove(folder: Path) -> None:
    try:
        unmount_volume(folder / SOCKET_FOLDER)
    except StorageError as error:
        _log.warning("%s", error)
    remove_folder(folder)
