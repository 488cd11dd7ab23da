"""A folder that nobody else may read, and that one master, or one worker, uses at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from harmonicio.core.errors import Conflict, StorageError

OWNER_ONLY_FOLDER = 0o700
OWNER_ONLY_FILE = 0o600
HOME_HINT = "Choose another, for example with HARMONICIO_HOME."


class LockedFolder:
    """A folder in use; :meth:`close` lets another have it.

    Args:
        path: The folder, which is made where there is none.
        role: Who uses it; it holds the lock ``<role>.lock`` there.
        inside: A folder in it, which is made as well.
        name: What people call it.
        hint: What to do when it cannot be used, or is in use.

    Raises:
        Conflict: another one of this role uses the folder.
        StorageError: it cannot be made or written.
    """

    def __init__(self, path: Path, role: str, inside: str, *, name: str = "data folder", hint: str = HOME_HINT) -> None:
        self.path = path
        self._lock_file = -1
        for each in (path, path / inside):
            make_private(each, name=name, hint=hint)
        try:
            self._lock_file = os.open(path / f"{role}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY_FILE)
        except OSError as error:
            raise StorageError(f"The {name} {path} cannot be used: {error.strerror}.", hint=hint) from error
        if not _lock(self._lock_file):
            self.close()
            raise Conflict(f"Another {role} uses the {name} {path}.", hint=f"Stop it, or {hint[0].lower()}{hint[1:]}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} {'closed' if self._lock_file < 0 else 'locked'}>"

    def close(self) -> None:
        """Let go of the folder; may be called more than once."""
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1


def is_in_use(path: Path, role: str) -> bool:
    """Whether one of this role uses the folder; to look keeps nobody from using it.

    Raises:
        StorageError: this user may not look.
    """
    try:
        file = os.open(path / f"{role}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"The data folder {path} cannot be looked at: {error.strerror}.") from error
    try:
        return not _attempt(file, fcntl.LOCK_SH)
    finally:
        os.close(file)


def _lock(file: int) -> bool:
    """Lock a file unless somebody has; who only looks shares a lock for a moment, and is waited for."""
    while not _attempt(file, fcntl.LOCK_EX):
        if not _attempt(file, fcntl.LOCK_SH):
            return False
    return True


def _attempt(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def make_private(path: Path, *, name: str = "folder", hint: str = HOME_HINT) -> None:
    """Make a folder that nobody else may read, where there is none yet.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=OWNER_ONLY_FOLDER)
    except OSError as error:
        raise StorageError(f"The {name} {path} cannot be made: {error.strerror}.", hint=hint) from error
