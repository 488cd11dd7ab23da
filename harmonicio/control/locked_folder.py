"""A folder that nobody else may read, and that one master, or one worker, uses at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from harmonicio.core.errors import Conflict, StorageError

OWNER_ONLY_FOLDER = 0o700
OWNER_ONLY_FILE = 0o600


class LockedFolder:
    """A folder in use; :meth:`close` lets another have it.

    Args:
        path: The folder, which is made where there is none.
        role: Who uses it; it holds the lock ``<role>.lock`` there.
        inside: A folder in it, which is made as well.

    Raises:
        Conflict: another one of this role uses the folder.
        StorageError: it cannot be made or written.
    """

    def __init__(self, path: Path, role: str, inside: str) -> None:
        self.path = path
        self._lock_file = -1
        make_private(path)
        make_private(path / inside)
        try:
            self._lock_file = os.open(path / f"{role}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY_FILE)
        except OSError as error:
            raise StorageError(
                f"The data folder {path} cannot be used: {error.strerror}.", hint="Choose another folder."
            ) from error
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise Conflict(
                f"Another {role} uses the data folder {path}.", hint="Stop it, or give this one its own folder."
            ) from error

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} {'closed' if self._lock_file < 0 else 'locked'}>"

    def close(self) -> None:
        """Let go of the folder; may be called more than once."""
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1


def make_private(path: Path) -> None:
    """Make a folder that nobody else may read, where there is none yet.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=OWNER_ONLY_FOLDER)
    except OSError as error:
        raise StorageError(
            f"The folder {path} cannot be made: {error.strerror}.",
            hint="Choose another, for example with HARMONICIO_HOME.",
        ) from error
