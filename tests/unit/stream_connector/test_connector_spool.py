"""The spool on a real disk: what is kept, what goes, and what is found again."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benches.spool import close_all, content, put, segments, spool_at
from harmonicio.core.errors import Conflict, StorageError
from harmonicio.stream_connector.spool.book import Book, Drop, Instruction, PutAside
from harmonicio.stream_connector.spool.disk import SegmentFile, SpoolDisk
from harmonicio.stream_connector.spool.records import Draft, Record


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


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


class Shared(deque[Instruction]):
    """What other threads add to: who goes through it without the lock fails when they do."""

    is_guarded: Callable[[], bool]

    def __contains__(self, each: object) -> bool:
        assert self.is_guarded()
        return super().__contains__(each)


def test_what_other_threads_add_to_is_looked_through_under_the_lock(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.open()
    entry = put(spool, "m-0", b"plate")
    spool._instructions = shared = Shared()
    shared.is_guarded = spool._deciding.locked
    spool.settle([(entry, "")])
    assert spool.kept == 0
