"""The master's data folder: one master at a time, and nobody else may read it.

<folder>/master.lock            held for as long as the master lives
<folder>/master.sqlite          streams, token hashes, ticket key, epoch (0600)
<folder>/tokens/<role>.token    the tokens of the first start, for whoever may read this folder (0600)
<folder>/backlog/               the backlog's own
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from harmonicio.core.errors import Conflict, StorageError

OWNER_ONLY_FOLDER = 0o700
OWNER_ONLY_FILE = 0o600


class DataFolder:
    """An opened data folder; :meth:`close` lets another master have it.

    Raises:
        Conflict: another master uses this folder.
        StorageError: the folder cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=OWNER_ONLY_FOLDER)
            self.backlog.mkdir(exist_ok=True, mode=OWNER_ONLY_FOLDER)
            self._lock_file = os.open(path / "master.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY_FILE)
        except OSError as error:
            raise StorageError(
                f"The data folder {path} cannot be used: {error.strerror}.", hint="Choose another folder."
            ) from error
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise Conflict(
                f"Another master uses the data folder {path}.", hint="Stop it, or give this one its own folder."
            ) from error

    def __repr__(self) -> str:
        return f"<DataFolder {self.path} {'closed' if self._lock_file < 0 else 'locked'}>"

    @property
    def database(self) -> Path:
        return self.path / "master.sqlite"

    @property
    def backlog(self) -> Path:
        return self.path / "backlog"

    def token_file(self, role: str) -> Path:
        return self.path / "tokens" / f"{role}.token"

    def write_token(self, role: str, secret: str) -> None:
        """Write a token's secret to its own file, readable by the owner only.

        Raises:
            StorageError: the file cannot be written.
        """
        path = self.token_file(role)
        try:
            path.parent.mkdir(exist_ok=True, mode=OWNER_ONLY_FOLDER)
            path.unlink(missing_ok=True)
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY_FILE)
            with os.fdopen(opened, "w", encoding="ascii") as file:
                file.write(secret + "\n")
                file.flush()
                os.fsync(opened)
        except OSError as error:
            raise StorageError(f"The token file {path} cannot be written: {error.strerror}.") from error

    def close(self) -> None:
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1
