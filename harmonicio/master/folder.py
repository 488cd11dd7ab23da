"""The master's data folder: one master at a time, and nobody else may read it.

<folder>/master.lock            held for as long as the master lives
<folder>/master.sqlite          streams, token hashes, ticket key, epoch (0600)
<folder>/tokens/<role>.token    the tokens of the first start, for whoever may read this folder (0600)
<folder>/audit/                 who changed what, and when (0600)
<folder>/backlog/               the backlog's own
"""

from __future__ import annotations

from pathlib import Path

from harmonicio.control.locked_folder import LockedFolder


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

    @property
    def audit(self) -> Path:
        return self.path / "audit"

    def token_file(self, role: str) -> Path:
        return self.path / "tokens" / f"{role}.token"
