"""Scratch volumes: bounded where that is possible, and never less than before because something failed once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonicio.core.errors import StorageError
from harmonicio.worker.containers import scratch_volumes
from harmonicio.worker.containers.scratch_volumes import ScratchVolumes

OWNER = (10001, 10001)
SIZE_BYTES = 16 * 1024**2


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[ScratchVolumes]:
    """Volumes of a root that can mount."""
    if os.geteuid():
        pytest.skip("only root can mount")
    made = ScratchVolumes(tmp_path / "containers", SIZE_BYTES, OWNER)
    made.make("e-first")
    if not os.path.ismount(made.path("e-first")):
        pytest.skip("no file system can be mounted here")
    yield made
    made.remove_strangers(set())
    assert list((tmp_path / "containers").iterdir()) == []


def commands_that_fail(folder: Path, *names: str) -> str:
    """Make commands that fail, and return a search path that finds them first."""
    folder.mkdir()
    for name in names:
        (folder / name).write_text("#!/bin/sh\necho it is busy >&2\nexit 1\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_a_volume_is_bounded_and_goes_with_what_is_in_it(volumes: ScratchVolumes) -> None:
    found = os.statvfs(volumes.path("e-first"))
    assert found.f_blocks * found.f_frsize <= SIZE_BYTES
    assert (volumes.path("e-first").stat().st_uid, volumes.path("e-first").stat().st_gid) == OWNER
    (volumes.path("e-first") / "large").write_bytes(b"x" * 1000)
    volumes.remove("e-first")
    assert list(volumes.path("e-first").parent.iterdir()) == []


@pytest.mark.parametrize("name", ["mkfs.ext4", "mount"])
def test_a_volume_that_cannot_be_made_fails_one_start_and_leaves_the_next_ones_bounded(
    name: str, volumes: ScratchVolumes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as failing:
        failing.setenv("PATH", commands_that_fail(tmp_path / "bin", name))
        with pytest.raises(StorageError, match=r"e-2 cannot be made: it is busy\."):
            volumes.make("e-2")
    volumes.remove("e-2")
    assert os.path.ismount(volumes.make("e-2"))


def test_what_is_still_in_use_is_not_removed_and_can_be_later(
    volumes: ScratchVolumes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open(volumes.path("e-first") / "file", "w"):
        with pytest.raises(StorageError, match=r"e-first cannot be removed: .*busy"):
            volumes.remove("e-first")
        volumes.remove_strangers(set())
        assert "e-first cannot be removed" in caplog.text
        assert (volumes.path("e-first") / "file").exists()
    volumes.remove("e-first")
    assert not volumes.path("e-first").exists()


def test_where_nothing_can_be_mounted_that_is_said_once_and_folders_are_not_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", commands_that_fail(tmp_path / "bin", "mount"))
    owner = OWNER if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    volumes = ScratchVolumes(tmp_path / "containers", SIZE_BYTES, owner)
    for engine in ("e-1", "e-2"):
        assert volumes.make(engine).is_dir()
    assert sorted(os.listdir(tmp_path / "containers")) == ["e-1", "e-2"]
    assert caplog.text.count("Scratch space is not bounded") == (1 if os.geteuid() == 0 else 0)
    assert "without a bound" in repr(volumes)


def test_a_time_out_does_not_tell_that_nothing_can_be_mounted(
    volumes: ScratchVolumes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = ScratchVolumes(tmp_path / "others", SIZE_BYTES, OWNER)
    with monkeypatch.context() as hanging:
        commands_that_fail(tmp_path / "bin", "mkfs.ext4")
        (tmp_path / "bin" / "mkfs.ext4").write_text("#!/bin/sh\nexec sleep 60\n")
        hanging.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        hanging.setattr(scratch_volumes, "_WITHIN_S", 0.2)
        with pytest.raises(StorageError, match="No scratch space can be made at present"):
            others.make("e-1")
    (tmp_path / "others" / ".probe").mkdir()
    assert os.path.ismount(others.make("e-1"))
    others.remove("e-1")
    assert subprocess.run(["findmnt", others.path("e-1")], capture_output=True, check=False).stdout == b""
