"""HASTE without a cluster: score files by a feature of your own, and keep each in the tier that it deserves.

Run it as ``python storage_client.py FILE …``; tiers and feature database are folders beside you.
"""

import sys
from pathlib import Path

from harmonicio.core.errors import HarmonicIOError
from harmonicio.haste.storage_client import StorageClient

HERE = Path.cwd() / "kept"
OPTIONS = {
    "function": {"name": "feature", "feature": "variety"},
    "policy": {"intervals": [[0, 0.5, "archive"], [0.5, 1, "fast"]]},
    "tiers": {tier: {"folder": str(HERE / tier)} for tier in ("fast", "archive", "unscored")},
    "feature_db": {"driver": "sqlite", "file": str(HERE / "features.sqlite")},
}


def keep(storage: StorageClient, path: Path) -> None:
    payload = path.read_bytes()
    features = {"variety": len(set(payload)) / 256} if payload else {}
    row = storage.save(payload, features=features, message_id=path.as_posix())
    print(f"{path}: score {row.score}, kept in {row.tier}", f"({row.reason})" if row.reason else "")


def main(files: list[str]) -> int:
    if not files:
        print("Which files? python storage_client.py FILE …", file=sys.stderr)
        return 2
    exit_code = 0
    with StorageClient.from_options(OPTIONS) as storage:
        for path in map(Path, files):
            try:
                keep(storage, path)
            except (OSError, HarmonicIOError) as error:
                print(f"error: {path} is not kept: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
                exit_code = 1
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
