"""HASTE without a cluster: score files by a feature of your own, and keep each in the tier that it deserves.

Run it as ``python storage_client.py FILE …``; tiers and feature database are folders beside you.
"""

import sys
from pathlib import Path

from harmonicio.haste.storage_client import StorageClient

HERE = Path.cwd() / "kept"
OPTIONS = {
    "function": {"name": "feature", "feature": "variety"},
    "policy": {"intervals": [[0, 0.5, "archive"], [0.5, 1, "fast"]]},
    "tiers": {tier: {"folder": str(HERE / tier)} for tier in ("fast", "archive", "unscored")},
    "feature_db": {"driver": "sqlite", "file": str(HERE / "features.sqlite")},
}

with StorageClient.from_options(OPTIONS) as storage:
    for path in map(Path, sys.argv[1:]):
        payload = path.read_bytes()
        features = {"variety": len(set(payload)) / 256} if payload else {}
        row = storage.save(payload, features=features, message_id=path.name)
        print(f"{path.name}: score {row.score}, kept in {row.tier}", f"({row.reason})" if row.reason else "")
