"""The backlog stores by name. Other packages add theirs under the entry-point group ``harmonicio.backlog_stores``."""

from __future__ import annotations

from pathlib import Path

from harmonicio.control.members import Family
from harmonicio.master.backlog.base import BacklogStore, StoreLimits

#: Each makes a store of a folder and limits.
STORES = Family(
    "backlog store",
    "harmonicio.backlog_stores",
    {"memory": "harmonicio.master.backlog.memory:create", "sqlite": "harmonicio.master.backlog.sqlite:create"},
)


def create_store(name: str, folder: Path, limits: StoreLimits | None = None) -> BacklogStore:
    """Return the store of this name, not opened yet.

    Args:
        folder: Where it keeps what it keeps.

    Raises:
        ConfigurationError: there is no store of this name.
    """
    store: BacklogStore = STORES.load(name)(folder, limits or StoreLimits())
    return store
