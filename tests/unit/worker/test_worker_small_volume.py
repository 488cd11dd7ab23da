"""An engine's socket folder holds no more than it has to, and goes with its engine."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from harmonicio.control.engine_channel import ControlListener, dial_controller
from harmonicio.core.errors import StorageError
from harmonicio.worker.folder import DataFolder
from harmonicio.worker.small_volume import VOLUME_BYTES, VOLUME_FILES, mount_volume, shares_mounts, unmount_volume

OWNER = (10001, 10001)


def add_bounded(folder: DataFolder, engine: str) -> Path:
    """Make the folder of an engine whose own part is bounded; return that."""
    if os.geteuid():
        pytest.skip("only root can mount")
    try:
        folder.add(engine, "bond", OWNER, is_bounded=True)
    except StorageError as error:
        pytest.skip(str(error))
    return folder.socket_of(engine)


def test_a_bounded_socket_folder_takes_a_socket_and_little_else(tmp_path: Path) -> None:
    with closing(DataFolder(tmp_path)) as folder:
        own = add_bounded(folder, "e-1")
        assert (own.stat().st_uid, own.stat().st_gid, own.stat().st_mode & 0o777) == (*OWNER, 0o700)
        with closing(ControlListener(own / "control.sock")), closing(dial_controller(own / "control.sock")):
            with pytest.raises(OSError, match="No space left"):
                (own / "large").write_bytes(bytes(VOLUME_BYTES + 1))
            (own / "large").unlink()
            with pytest.raises(OSError, match="No space left"):
                for number in range(VOLUME_FILES):
                    (own / f"{number}").touch()
            assert (folder.of("e-1") / "bond").read_text() == "bond"
        folder.remove("e-1")
    assert not folder.of("e-1").exists()


def test_what_a_worker_that_was_killed_has_mounted_goes_with_the_next_one_also_while_it_is_used(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    own = add_bounded(folder, "e-1")
    with open(own / "file", "w"):
        folder.close()
        with closing(DataFolder(tmp_path)) as following:
            following.remove_strangers(set())
    assert list(folder.engines.iterdir()) == []


def test_what_cannot_be_mounted_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"mount of .*missing failed"):
        mount_volume(tmp_path / "missing", OWNER)
    unmount_volume(tmp_path / "missing")


def test_only_who_is_in_the_same_place_shares_mounts(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        assert shares_mounts(str(tmp_path / "socket")) is (os.geteuid() == 0)
    assert not shares_mounts(str(tmp_path / "socket"))
    assert not shares_mounts("")
