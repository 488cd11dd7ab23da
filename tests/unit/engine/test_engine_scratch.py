"""Folders on the scratch volume go when they were used, and those of a process that is gone with the next process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonicio.core.errors import StorageError
from harmonicio.engine.scratch import PREFIX, Scratch


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What TMPDIR names."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path


@pytest.fixture
def scratch(volume: Path) -> Iterator[Scratch]:
    with_folders = Scratch()
    yield with_folders
    with_folders.close()
    assert list(volume.iterdir()) == []


def test_a_folder_goes_with_all_that_is_in_it_also_after_an_error(scratch: Scratch) -> None:
    with pytest.raises(ValueError), scratch.folder() as folder:
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "b" / "file").touch()
        raise ValueError
    assert not folder.exists()


def test_what_was_made_read_only_goes_too_and_a_link_takes_nothing_along(scratch: Scratch, volume: Path) -> None:
    elsewhere = volume / "elsewhere"
    elsewhere.mkdir(mode=0o555)
    with scratch.folder() as folder:
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "b" / "file").touch()
        (folder / "a" / "link").symlink_to(elsewhere)
        (folder / "a" / "b").chmod(0)
        (folder / "a").chmod(0o555)
    assert not folder.exists()
    assert elsewhere.stat().st_mode & 0o777 == 0o555
    elsewhere.rmdir()


def test_folders_beyond_any_depth_harm_nobody(scratch: Scratch) -> None:
    with scratch.folder() as folder:
        _nest(folder, 1_200)
    while (folder / "in" / "in").exists():  # No deeper than pytest can remove.
        (folder / "in" / "in").rename(folder / "next")
        (folder / "in").rmdir()
        (folder / "next").rename(folder / "in")


def _nest(folder: Path, times: int) -> None:
    above = os.open(folder, os.O_RDONLY)
    for _ in range(times):
        os.mkdir("in", dir_fd=above)
        inner = os.open("in", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = inner
    os.close(above)


def test_what_a_process_left_behind_goes_with_the_next_one_and_what_lives_stays(scratch: Scratch, volume: Path) -> None:
    abandoned = volume / f"{PREFIX}abandoned"
    (abandoned / "message").mkdir(parents=True)
    (volume / "somebody-elses").mkdir()
    with scratch.folder() as living:
        following = Scratch()
        assert not abandoned.exists()
        assert living.exists()
        following.close()
    (volume / "somebody-elses").rmdir()


def test_a_volume_without_room_is_a_storage_error(scratch: Scratch, volume: Path) -> None:
    (own,) = volume.iterdir()
    own.rmdir()
    with pytest.raises(StorageError, match="No folder can be made in"), scratch.folder():
        raise AssertionError("there is no folder")
