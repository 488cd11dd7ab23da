"""The worker's data folder: one worker at a time, and nobody else may read it.

<folder>/worker.lock                held for as long as the worker lives; says who that is, whatever its name
<folder>/engines/<engine>/          one for each engine: its control socket, its bond, and what the runtime needs
<folder>/engine-logs/<engine>.log   the ends of the logs of the last engines that have ended
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
from pathlib import Path

from harmonicio.core.errors import Conflict, StorageError

_log = logging.getLogger(__name__)

OWNER_ONLY_FOLDER = 0o700
OWNER_ONLY_FILE = 0o600
_BOND_NAME = "bond"


class DataFolder:
    """An opened data folder; :meth:`close` lets another worker have it.

    Attributes:
        identity: Random, and the same for as long as the folder exists.

    Raises:
        Conflict: another worker uses this folder.
        StorageError: the folder cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_file = -1
        make_private(self.engines)
        try:
            self._lock_file = os.open(path / "worker.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY_FILE)
        except OSError as error:
            raise StorageError(
                f"The data folder {path} cannot be used: {error.strerror}.", hint="Choose another folder."
            ) from error
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise Conflict(
                f"Another worker uses the data folder {path}.", hint="Stop it, or give this one its own folder."
            ) from error
        self.identity = self._drawn_once()

    def __repr__(self) -> str:
        return f"<DataFolder {self.path} {'closed' if self._lock_file < 0 else 'locked'}>"

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

    def add(self, engine: str, bond: str) -> Path:
        """Make the folder of a new engine.

        Raises:
            StorageError: it cannot be made.
        """
        folder = self.of(engine)
        try:
            folder.mkdir(mode=OWNER_ONLY_FOLDER)
            (folder / _BOND_NAME).write_text(bond, encoding="ascii")
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
        """Remove the folder of an engine that has ended."""
        shutil.rmtree(self.of(engine), onerror=_say_what_is_left)

    def remove_strangers(self, known: set[str]) -> None:
        """Remove what belongs to none of these engines: starts that were cut off."""
        for folder in self.engines.iterdir():
            if folder.name not in known:
                self.remove(folder.name)

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
        raise StorageError(f"The folder {path} cannot be made: {error.strerror}.", hint="Choose another.") from error


def _say_what_is_left(function: object, path: str, failure: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        _log.warning("%s cannot be removed: %s", path, failure[1])
