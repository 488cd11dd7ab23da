"""The example of the storage client runs as it stands, in a process of its own, without a cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def start(repository: Path, folder: Path, *files: str) -> subprocess.CompletedProcess[str]:
    """Run the example in a folder."""
    command = [sys.executable, str(repository / "examples" / "storage_client.py"), *files]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def run(repository: Path, folder: Path, *files: str) -> list[str]:
    """Run the example, which must succeed, in a folder; return its lines."""
    finished = start(repository, folder, *files)
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


def test_files_that_cannot_be_read_are_named_and_the_others_kept(repository: Path, tmp_path: Path) -> None:
    for name in ("plates/1", "other/1"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    finished = start(repository, tmp_path, "missing", "plates/1", "plates", "other/1")
    assert finished.returncode == 1
    assert finished.stderr.splitlines() == [
        "error: missing is not kept: No such file or directory",
        "error: plates is not kept: Is a directory",
    ]
    assert [line.split(":")[0] for line in finished.stdout.splitlines()] == ["plates/1", "other/1"]


def test_without_files_the_example_says_how_it_is_called(repository: Path, tmp_path: Path) -> None:
    finished = start(repository, tmp_path)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "storage_client.py FILE" in finished.stderr
    assert not (tmp_path / "kept").exists()
