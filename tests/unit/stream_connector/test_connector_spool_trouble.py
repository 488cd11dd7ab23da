"""The spool when something goes wrong: damage, files that are away, disks that take nothing, interruptions, forks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benches.spool import aside, close_all, content, put, segments, spool_at
from harmonicio.core.errors import InvalidInput, StorageError
from harmonicio.stream_connector.sources import PayloadAway
from harmonicio.stream_connector.spool.disk import SegmentFile, SpoolDisk
from harmonicio.stream_connector.spool.records import Draft, Record


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


def test_damage_is_found_put_aside_with_a_record_and_the_rest_is_whole(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.open()
    entries = [put(spool, f"m-{number}", bytes([number]) * 1000) for number in range(6)]
    spool.close()
    (path,) = segments(spool)
    damaged = bytearray(path.read_bytes())
    damaged[entries[1].offset + 500] ^= 1  # in a payload
    damaged[entries[3].offset + 10] ^= 1  # in a head
    path.write_bytes(damaged[:-10])  # and the end is missing
    again = spool_at(tmp_path)
    found = again.open()
    assert [each.record.message_id for each in found] == ["m-0", "m-2", "m-4"]
    assert segments(again) == [path], "it stays until the rest is safe"
    again.settle([(each, "") for each in found])
    assert segments(again) == []
    said = aside(again)
    assert "the payload of message 'm-1' is damaged" in said
    assert f"at byte {entries[3].offset} the head of a message is damaged" in said
    assert "the file ends in the middle of message 'm-5'" in said
    assert (again.folder / "aside" / path.name).stat().st_size == len(damaged) - 10
    again.close()
    assert spool_at(tmp_path).open() == []


def test_what_was_put_aside_is_tried_again_when_somebody_moves_it_back(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.open()
    put(spool, "m", b"image")
    spool.close()
    again = spool_at(tmp_path)
    again.settle([(each, "too large") for each in again.open()])
    again.close()
    assert "message 'm' could not be sent: too large" in aside(again)
    (path,) = (again.folder / "aside").glob("*.segment")
    path.rename(again.folder / path.name)
    assert content(spool_at(tmp_path).open()) == {"m": b"image"}


def test_a_file_that_has_changed_is_told_from_one_that_is_away(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.open()
    for name in ("same", "away", "changed"):
        path = tmp_path / name
        path.write_bytes(bytes(10))
        record = Record(name, 0, b"", 10, path=os.fsencode(path), changed_ns=path.stat().st_mtime_ns)
        draft = Draft(record, b"")
        assert spool.reserve(draft)
        spool.keep(record, draft)
    spool.close()
    (tmp_path / "away").rename(tmp_path / "elsewhere")
    (tmp_path / "changed").write_bytes(bytes(11))
    same, away, changed = spool_at(tmp_path).open()
    assert content([same]) == {"same": bytes(10)}
    with pytest.raises(PayloadAway, match="away cannot be sent: No such file"):
        away.payload.reader()
    with pytest.raises(InvalidInput, match="changed has changed since it was sent"):
        changed.payload.reader()
    (tmp_path / "elsewhere").rename(tmp_path / "away")
    assert content([away]) == {"away": bytes(10)}


def test_a_full_folder_of_what_was_put_aside_deletes_nothing_and_refuses_what_is_new(tmp_path: Path) -> None:
    for number in range(4):
        before = spool_at(tmp_path)
        before.open()
        put(before, f"m-{number}", bytes(45_000))
        before.close()
        after = spool_at(tmp_path, max_bytes=100_000)
        after.settle([(each, "too large") for each in after.open()])
        after.close()
    spool = spool_at(tmp_path, max_bytes=100_000)
    spool.open()
    kept = sorted(spool.aside_folder.glob("*.segment"))
    assert len(kept) == 4, "nobody else has these messages"
    with pytest.raises(StorageError, match="put aside takes") as caught:
        put(spool, "new", b"image")
    assert str(spool.aside_folder) in str(caught.value)
    for each in kept:
        each.unlink()
    put(spool, "new", b"image")


def test_it_tells_what_it_cannot_send(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.open()
    entries = [put(spool, f"m-{number}", bytes([number]) * 1000) for number in range(3)]
    spool.close()
    (path,) = segments(spool)
    damaged = bytearray(path.read_bytes())
    damaged[entries[1].offset + 500] ^= 1
    path.write_bytes(damaged)
    again = spool_at(tmp_path)
    first, last = again.open()
    assert len(again.unsendable) == 1
    again.settle([(first, "too large"), (last, "")])
    assert again.unsendable == (
        f"at byte {entries[1].offset} the payload of message 'm-1' is damaged",
        "message 'm-0' could not be sent: too large",
    )


@pytest.mark.parametrize("name", ["mark_gone", "remove"])
def test_what_is_interrupted_while_it_is_let_go_of_is_let_go_of_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    spool = spool_at(tmp_path, max_bytes=64 * 64 * 1024)
    spool.open()
    first, second = put(spool, "first", bytes(60_000)), put(spool, "second", bytes(60_000))
    leaving = [(first, ""), (second, "")]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SpoolDisk, name, interrupt)
        spool.settle(leaving)
    spool.settle(leaving)
    assert spool.close() == 0
    assert segments(spool) == []


FULL_DISK = """
import resource, sys
from pathlib import Path
from harmonicio.core.errors import StorageError
from harmonicio.stream_connector.spool.records import Draft, Record
from harmonicio.stream_connector.spool.spool import Spool

resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
spool = Spool(Path(sys.argv[1]), "images", max_bytes=10**9)
spool.open()
for name, size in (("fits", 20_000), ("large", 40_000), ("fits too", 20_000)):
    record = Record(name, 0, b"", size)
    draft = Draft(record, bytes(size))
    assert spool.reserve(draft)
    try:
        spool.keep(record, draft)
    except StorageError as error:
        print(name, "|", error)
print(spool.close())
"""


def test_a_write_that_the_disk_does_not_take_leaves_nothing_half_there(tmp_path: Path) -> None:
    """A limit for the size of files cuts a write in the middle, as a full disk does."""
    child = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    refused, kept = child.stdout.splitlines()
    assert refused.startswith(f"large | The spool {tmp_path / 'images'} cannot be written: File too large.")
    assert kept == "2"
    spool = spool_at(tmp_path)
    assert list(content(spool.open())) == ["fits", "fits too"]
    assert aside(spool) == ""


def test_a_sync_that_fails_is_an_error_for_all_who_waited_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: SpoolDisk, file: SegmentFile) -> None:
        raise OSError(errno.EIO, "Input/output error")

    spool = spool_at(tmp_path, is_synced=True)
    spool.open()
    with monkeypatch.context() as patch:
        patch.setattr(SpoolDisk, "sync", fail)
        with pytest.raises(StorageError, match="cannot be synced: Input/output error"):
            put(spool, "lost", b"image")
    put(spool, "kept", b"image")
    assert spool.close() == 1
    assert list(content(spool_at(tmp_path).open())) == ["kept"]


def test_the_name_of_a_segment_is_synced_again_after_a_sync_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: SpoolDisk, file: SegmentFile) -> None:
        raise OSError(errno.EIO, "Input/output error")

    synced: list[str] = []
    spool = spool_at(tmp_path, is_synced=True)
    spool.open()
    put(spool, "before", b"image")
    with monkeypatch.context() as patch:
        patch.setattr(SpoolDisk, "sync", fail)
        monkeypatch.setattr(SpoolDisk, "sync_folder", lambda self: synced.append("folder"))
        with pytest.raises(StorageError):
            put(spool, "large", bytes(20_000_000))
        with pytest.raises(StorageError):
            put(spool, "lost", b"image")
    put(spool, "kept", b"image")
    assert synced == ["folder"]


def test_what_is_interrupted_while_it_is_written_is_not_kept_and_leaves_no_hole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    spool = spool_at(tmp_path)
    spool.open()
    put(spool, "first", b"image")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "pwritev", interrupt)
        put(spool, "interrupted", b"image")
    put(spool, "second", b"image")
    assert spool.close() == 2
    again = spool_at(tmp_path)
    assert list(content(again.open())) == ["first", "second"]
    assert aside(again) == ""


def test_a_closed_spool_takes_nothing(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.open()
    spool.close()
    with pytest.raises(InvalidInput, match="closed"):
        put(spool, "m", b"image")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_folder_from_the_next(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.open()
    (reader, writer), (is_forked, says_forked) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.write(says_forked, b"x")
        os.read(reader, 1)
        os._exit(0)
    try:
        assert os.read(is_forked, 1) == b"x"
        spool.close()
        spool_at(tmp_path).open()
    finally:
        for descriptor in (reader, writer, is_forked, says_forked):
            os.close(descriptor)
        os.waitpid(child, 0)
