"""A storage client of four tiers, with shortcuts for one stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harmonicio.haste.feature_db.base import FeatureRow
from harmonicio.haste.storage_client import StorageClient

PAPER = [[0, 0.25, "D"], [0.25, 0.5, "C"], [0.5, 0.75, "B"], [0.75, 1, "A"]]
STREAM = "plates"


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "function": {"name": "feature", "feature": "focus"},
        "policy": {"intervals": PAPER},
        "tiers": {tier: {"folder": str(folder / tier)} for tier in ("A", "B", "C", "D", "unscored")},
        "feature_db": {"driver": "memory"},
    } | more


def save(
    client: StorageClient, focus: float, message_id: str = "m1", payload: bytes = b"pixels", **more: Any
) -> FeatureRow:
    return client.save(payload, features={"focus": focus}, message_id=message_id, stream=STREAM, **more)


def files_in(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())
