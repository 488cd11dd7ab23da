"""The master's data folder: one master at a time, and nobody else may read it.

<folder>/master.lock            held for as long as the master lives
<folder>/master.sqlite          streams, token hashes, ticket key, epoch (0600)
<folder>/tokens/<role>.token    the tokens of the first start, for whoever may read this folder (0600)
<folder>/backlog/               the backlog's own
"""

from __future__ import annotations

import os
from pathlib import Path

from harmonicio.control.locked_folder import OWNER_ONLY_FILE, OWNER_ONLY_FOLDER, LockedFolder
from harmonicio.core.errors import StorageError


class DataFolder(LockedFolder):
    """The master's folder, in use.

    Raises:
        Conflict, StorageError: as :class:`LockedFolder` says.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "master", inside="backlog")

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
