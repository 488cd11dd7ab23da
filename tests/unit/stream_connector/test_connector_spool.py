"""The spool on a real disk: what is kept, what goes, what is found again, and what is damaged."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harmonicio.core.errors import Conflict, InvalidInput, StorageError
from harmonicio.stream_connector.sources import PayloadAway, read_whole
from harmonicio.stream_connector.spool.book import Book, Drop, PutAside
from harmonicio.stream_connector.spool.disk import SegmentFile, SpoolDisk
from harmonicio.stream_connector.spool.records import Draft, Record
from harmonicio.stream_connector.spool.spool import Entry, Spool

_made: list[Spool] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _made:
        _made.pop().close()


def spool_at(folder: Path, *, stream: str = "images", max_bytes: int = 10**9, is_synced: bool = False) -> Spool:
    """Return a spool that ends with its test."""
    _made.append(Spool(folder, stream, max_bytes=max_bytes, is_synced=is_synced))
    return _made[-1]


def put(spool: Spool, name: str, payload: bytes) -> Entry:
    record = Record(name, 3, b"section", len(payload))
    draft = Draft(record, payload)
    assert spool.reserve(draft)
    return spool.keep(record, draft)


def content(entries: Sequence[Entry]) -> dict[str, bytes]:
    return {each.record.message_id: bytes(read_whole(each.payload.reader())) for each in entries}


def segments(spool: Spool) -> list[Path]:
    return sorted(spool.folder.glob("*.segment"))


def aside(spool: Spool) -> str:
    return "".join(each.read_text() for each in sorted((spool.folder / "aside").glob("*.txt")))


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_not_safe_is_found_again_in_its_order_and_what_is_safe_is_not(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    assert spool.open() == []
    entries = [put(spool, f"m-{number}", bytes([number]) * number) for number in range(5)]
    spool.settle([(entries[1], ""), (entries[3], "")])
    assert spool.close() == 3
    again = spool_at(tmp_path)
    found = again.open()
    assert content(found) == {"m-0": b"", "m-2": b"\2\2", "m-4": b"\4" * 4}
    assert [(each.record.priority, each.record.section) for each in found] == [(3, b"section")] * 3
    again.settle([(each, "") for each in found])
    assert again.close() == 0
    assert segments(again) == []


def test_a_spool_has_one_owner_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.open()
    with pytest.raises(Conflict, match="Another connector uses"):
        spool_at(tmp_path).open()
    spool_at(tmp_path, stream="other").open()
    spool.close()
    spool_at(tmp_path).open()


def test_a_folder_that_cannot_be_used_is_called_a_spool_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        spool_at(tmp_path / "file").open()
    assert str(caught.value) == (
        f"The spool {tmp_path / 'file' / 'images'} cannot be made: Not a directory. "
        "Choose another folder with spool= or --spool."
    )
    spool_at(tmp_path).open()
    with pytest.raises(Conflict) as conflict:
        spool_at(tmp_path).open()
    assert str(conflict.value) == (
        f"Another connector uses the spool {tmp_path / 'images'}. "
        "Stop it, or choose another folder with spool= or --spool."
    )


def test_a_full_spool_has_room_again_when_something_is_safe_and_always_for_one(tmp_path: Path) -> None:
    spool = spool_at(tmp_path, max_bytes=100_000)
    spool.open()
    first = put(spool, "first", bytes(80_000))
    draft = Draft(Record("second", 0, b"", 200_000), bytes(200_000))
    assert not spool.reserve(draft)
    spool.settle([(first, "")])
    assert spool.reserve(draft)
    spool.keep(Record("second", 0, b"", 200_000), draft)
    assert not spool.reserve(Draft(Record("third", 0, b"", 1), b"x"))
    assert spool.close() == 1


def test_a_segment_goes_with_the_last_message_of_it() -> None:
    book = Book(max_bytes=64 * 64 * 1024)
    places = []
    for _ in range(3):
        assert book.reserve(40_000)
        places.append(book.place(40_000)[0])
    assert [(each.segment, each.offset, each.is_new) for each in places] == [
        (1, 0, True),
        (1, 40_000, False),
        (2, 0, True),
    ]
    assert book.settled(1) == []
    assert book.settled(1, is_spoilt=True) == [PutAside(1)]
    assert book.settled(2) == []
    assert book.rest() == [Drop(2)]
    assert (book.size_bytes, book.kept) == (0, 0)


def test_sources_that_come_and_go_fill_one_segment(tmp_path: Path) -> None:
    """Else each of them would leave one, and sooner or later nobody could open them all."""
    for number in range(5):
        spool = spool_at(tmp_path, is_synced=True)
        assert list(content(spool.open())) == [f"m-{before}" for before in range(number)]
        put(spool, f"m-{number}", bytes([number]) * 10)
        assert spool.close() == number + 1
    assert len(segments(spool)) == 1


def test_a_segment_of_which_something_is_refused_or_damaged_does_not_grow(tmp_path: Path) -> None:
    book = Book(max_bytes=10**9, first=3)
    assert book.adopt(1, 100, 2, is_spoilt=True, is_last=True) == []
    assert book.adopt(2, 100, 2, is_spoilt=False, is_last=True) == []
    assert book.reserve(10)
    assert book.place(10)[0].segment == 2
    assert book.settled(2, is_spoilt=True) == []
    assert book.reserve(10)
    assert book.place(10)[0].segment == 3


def test_many_threads_share_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = []
    may_sync = threading.Event()

    def sync(self: SpoolDisk, file: SegmentFile) -> None:
        may_sync.wait(10)
        syncs.append(file)
        os.fdatasync(file.fileno())

    monkeypatch.setattr(SpoolDisk, "sync", sync)
    spool = spool_at(tmp_path, is_synced=True)
    spool.open()
    threads = [threading.Thread(target=put, args=(spool, f"m-{number}", b"x")) for number in range(20)]
    for thread in threads:
        thread.start()
    while spool.kept < 20:
        threading.Event().wait(0.01)
    may_sync.set()
    for thread in threads:
        thread.join(10)
    assert len(syncs) <= 3
    assert spool.close() == 20


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────────


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
