"""The folders of a worker's host that a stream with HASTE needs: those of its tiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def needed(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the folders that the table ``plugins.haste`` names.

    Every tier driver that keeps payloads in a folder of the host calls its option ``folder``.
    """
    tiers = options.get("tiers")
    tables = tiers.values() if isinstance(tiers, Mapping) else ()
    folders = (table.get("folder") for table in tables if isinstance(table, Mapping))
    return tuple(folder for folder in folders if isinstance(folder, str) and folder.startswith("/"))
