"""The example of the storage client runs as it stands, in a process of its own, without a cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run(repository: Path, folder: Path, *files: str) -> list[str]:
    """Run the example in a folder; return its lines."""
    command = [sys.executable, str(repository / "examples" / "storage_client.py"), *files]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def test_the_example_sorts_files_into_tiers(repository: Path, tmp_path: Path) -> None:
    contents = {"rich": bytes(range(256)), "plain": bytes(1000), "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    rich, plain, empty = run(repository, tmp_path, *contents)
    assert rich.startswith("rich: score 1.0, kept in fast")
    assert plain.startswith("plain: score 0.00390625, kept in archive")
    assert empty.startswith("empty: score None, kept in unscored (")
    assert "variety" in empty
    kept = {"rich": "fast", "plain": "archive", "empty": "unscored"}
    found = {name: (tmp_path / "kept" / tier / "local" / name).read_bytes() for name, tier in kept.items()}
    assert found == contents


def test_the_example_run_again_keeps_everything_once(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "rich").write_bytes(bytes(range(256)))
    assert run(repository, tmp_path, "rich") == run(repository, tmp_path, "rich")
    assert [path.name for path in (tmp_path / "kept" / "fast" / "local").iterdir()] == ["rich"]
