"""Whatever an engine leaves in its folders goes, or is said to stay; nothing of it raises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from harmonicio.worker.folder import DataFolder
from harmonicio.worker.removal import remove_folder


def nest(folder: Path, times: int) -> None:
    """Make folders in folders, deeper than any path can say."""
    above = os.open(folder, os.O_RDONLY)
    for _ in range(times):
        os.mkdir("in", dir_fd=above)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=above))
        inner = os.open("in", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = inner
    os.close(above)


def test_folders_of_any_depth_go(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    nest(folder, 3_000)
    assert remove_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_links_pipes_and_many_names_go_and_nothing_that_is_linked_to(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "c" / "b").mkdir(parents=True)
    (folder / "c" / "b" / "b").mkdir()
    other.mkdir(mode=0o500)
    (folder / "a" / "b" / "link").symlink_to(other)
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "a" / "pipe")
    for number in range(2_000):
        (folder / "a" / f"{number}").touch()
    assert remove_folder(folder)
    assert os.listdir(tmp_path) == ["other"]
    assert other.stat().st_mode & 0o777 == 0o500


def test_what_is_a_file_or_a_link_or_not_there_goes_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    assert all(remove_folder(tmp_path / name) for name in ("file", "link", "missing"))
    assert list(tmp_path.iterdir()) == []


AS_AN_ORDINARY_USER = """
    import os
    from pathlib import Path
    from harmonicio.worker.removal import remove_folder

    if os.geteuid() == 0:
        os.chown(".", 10001, 10001)
        os.setgid(10001)
        os.setuid(10001)
    top = Path("top")
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "large").write_bytes(b"x" * 1000)
    for closed, mode in ((top / "a" / "b", 0), (top / "a", 0o500), (top, 0o500)):
        closed.chmod(mode)
    print(remove_folder(top), top.exists())
"""


def test_folders_that_an_engine_has_closed_go_without_root(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", dedent(AS_AN_ORDINARY_USER)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.stdout.split() == ["True", "False"], run.stderr


def test_what_cannot_be_removed_is_said_and_all_else_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    held = tmp_path / "folder" / "a" / "held"
    held.mkdir(parents=True)
    (tmp_path / "folder" / "b" / "c").mkdir(parents=True)
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "none", held], check=False).returncode:
        pytest.skip("only root can make something that cannot be removed")
    try:
        assert not remove_folder(tmp_path / "folder")
    finally:
        subprocess.run(["umount", held], check=True)
    assert [path.name for path in (tmp_path / "folder").rglob("*")] == ["a", "held"]
    assert f"{tmp_path / 'folder'} cannot be removed: " in caplog.text


def test_a_folder_that_is_too_deep_or_no_folder_keeps_no_worker_from_beginning(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    nest(folder.add("e-1", "bond"), 2_000)
    (folder.engines / "file").touch()
    folder.remove_strangers(set())
    folder.close()
    assert list(folder.engines.iterdir()) == []
