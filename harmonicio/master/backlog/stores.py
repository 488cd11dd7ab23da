"""The backlog stores by name. Other packages add theirs under the entry-point group ``harmonicio.backlog_stores``."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from harmonicio.core.errors import ConfigurationError
from harmonicio.master.backlog.base import BacklogStore, StoreLimits

ENTRY_POINT_GROUP = "harmonicio.backlog_stores"

#: Module and function; the function takes a folder and limits.
_STORES = {
    "memory": ("harmonicio.master.backlog.memory", "create"),
    "sqlite": ("harmonicio.master.backlog.sqlite", "create"),
}


def create_store(name: str, folder: Path, limits: StoreLimits | None = None) -> BacklogStore:
    """Return the store of this name, not opened yet.

    Args:
        folder: Where it keeps what it keeps.

    Raises:
        ConfigurationError: there is no store of this name.
    """
    if name in _STORES:
        module, function = _STORES[name]
        create = getattr(import_module(module), function)
    else:
        found = {item.name: item for item in entry_points(group=ENTRY_POINT_GROUP)}
        if name not in found:
            raise ConfigurationError(
                f"There is no backlog store {name!r}.", hint=f"Use one of {', '.join(sorted({*_STORES, *found}))}."
            )
        create = found[name].load()
    store: BacklogStore = create(folder, limits or StoreLimits())
    return store
