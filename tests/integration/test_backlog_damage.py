"""Damage at rest: a broken index is made anew from what can be read, what is damaged is put aside, all else served."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from benches import forks
from benches.disk_calls import Call, Watch, watch_disk
from harmonicio.core.errors import StorageError
from harmonicio.master.backlog import sqlite_salvage
from harmonicio.master.backlog.backlog import Backlog
from harmonicio.master.backlog.base import Recovery, StoreLimits
from harmonicio.master.backlog.entry import Entry, Finished
from harmonicio.master.backlog.payload_files import PayloadFiles
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.open_store import DONE, OpenStore, Told

LIMITS = StoreLimits(hot_cache_bytes=0)
LARGE, SMALL = 100_000, 3_000
PAGE_BYTES = 4096


def payload_of(number: int) -> bytes:
    return random.Random(number).randbytes(LARGE if number % 2 else SMALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed store: 40 messages that wait, every other one in a file; two dead letters; three finished."""
    opened = OpenStore(SqliteStore(tmp_path / "backlog", LIMITS))
    entries = [
        opened.put(number, payload_of(number), section=b"\x81\xa1a\x01", priority=number) for number in range(45)
    ]
    for entry in entries[:3]:
        opened.finish(entry)
    for entry in entries[3:5]:
        opened.bury(entry)
    opened.store.close()
    return tmp_path / "backlog"


@pytest.fixture
def open_store(folder: Path) -> Iterator[Callable[[], OpenStore]]:
    opened: list[OpenStore] = []

    def open_store() -> OpenStore:
        for each in opened:
            each.store.close()
        opened.append(OpenStore(SqliteStore(folder, LIMITS)))
        return opened[-1]

    yield open_store
    for each in opened:
        each.store.close()


def served(opened: OpenStore) -> list[int]:
    """Return the messages that are read as they were put; what cannot be read is called damaged, never wrong."""
    found = []
    for entry in opened.recovery.entries:
        try:
            assert opened.read(entry) == payload_of(entry.sequence)
        except StorageError as error:
            assert not error.retryable
        else:
            assert (entry.message_id, entry.section) == (f"m{entry.sequence}", b"\x81\xa1a\x01")
            found.append(entry.sequence)
    return found


def change(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_the_header_of_the_index_is_gone_and_all_large_messages_are_adopted(
    folder: Path, open_store: Callable[[], OpenStore]
) -> None:
    change(folder / "backlog.sqlite", 0, b"\xff" * 100)
    opened = open_store()
    # Without the header not one row can be read; files of finished and dead ones are gone or wait again.
    assert served(opened) == list(range(3, 45, 2))
    assert [entry.priority for entry in opened.recovery.entries] == list(range(3, 45, 2))
    (repair,) = opened.recovery.repairs
    assert "made anew" in repair and "21 messages were adopted" in repair
    assert (folder / "quarantine" / "1" / "backlog.sqlite").read_bytes()[:4] == b"\xff" * 4
    opened = open_store()
    assert len(opened.recovery.entries) == 21 and opened.recovery.repairs == ()
    opened.put(100, b"goes on")


def test_an_index_that_is_missing_or_empty_loses_no_payload_file(
    folder: Path, open_store: Callable[[], OpenStore]
) -> None:
    os.truncate(folder / "backlog.sqlite", 0)
    assert served(open_store()) == list(range(3, 45, 2))


def test_a_table_that_is_not_there_is_not_searched_for_its_rows() -> None:
    with closing(sqlite3.connect(":memory:")) as empty:
        asked: list[str] = []
        empty.set_trace_callback(asked.append)
        assert list(sqlite_salvage._rows(empty, "finished")) == []
    assert len(asked) <= 1


def test_wherever_a_page_of_the_index_is_damaged_the_rest_is_served(
    folder: Path, open_store: Callable[[], OpenStore]
) -> None:
    index = folder / "backlog.sqlite"
    whole = index.read_bytes()
    chance = random.Random(7)
    rebuilt = 0
    for page in range(1, len(whole) // PAGE_BYTES, 2):
        index.write_bytes(whole)
        for suffix in ("-wal", "-shm"):
            index.with_name(index.name + suffix).unlink(missing_ok=True)
        change(index, page * PAGE_BYTES, chance.randbytes(PAGE_BYTES))
        opened = open_store()
        dead = [entry.sequence for entry in opened.recovery.dead]
        found = served(opened)
        rebuilt += any("made anew" in repair for repair in opened.recovery.repairs)
        assert {*range(5, 45, 2)} <= {*found, *dead}, page  # What is in files is never lost.
        assert len(found) >= 20, page
        opened.store.close()
    assert rebuilt > 5


def test_bits_that_flip_in_the_index_never_make_a_wrong_payload(
    folder: Path, open_store: Callable[[], OpenStore]
) -> None:
    index = folder / "backlog.sqlite"
    whole = index.read_bytes()
    chance = random.Random(11)
    for _ in range(8):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        index.write_bytes(damaged)
        opened = open_store()
        for entry in opened.recovery.entries:
            try:
                assert opened.read(entry) in (payload_of(number) for number in range(45))
            except StorageError as error:
                assert not error.retryable
        opened.store.close()


def test_a_payload_file_that_tells_nothing_is_put_aside_when_the_index_is_lost(
    folder: Path, open_store: Callable[[], OpenStore]
) -> None:
    (path,) = folder.glob("payloads/*/7.bin")
    os.truncate(path, 50_000)
    change(folder / "backlog.sqlite", 0, b"\xff" * 100)
    opened = open_store()
    assert served(opened) == [3, 5, *range(9, 45, 2)]
    assert (folder / "quarantine" / "1" / "7.bin").stat().st_size == 50_000


def test_a_payload_file_that_cannot_be_read_is_put_aside_when_the_index_is_lost_and_the_rest_is_served(
    folder: Path, open_store: Callable[[], OpenStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(folder / "backlog.sqlite", 0, b"\xff" * 100)
    read = PayloadFiles.label

    def fail(files: PayloadFiles, sequence: int) -> Entry | None:
        if sequence == 7:
            raise OSError(errno.EIO, "Input/output error")
        return read(files, sequence)

    monkeypatch.setattr(PayloadFiles, "label", fail)
    opened = open_store()
    assert served(opened) == [3, 5, *range(9, 45, 2)]
    assert "0 told nothing new, 1 could not be read" in opened.recovery.repairs[0]
    assert (folder / "quarantine" / "1" / "7.bin").stat().st_size > LARGE


@pytest.mark.parametrize("point", ["rename", "link", "mkdir", "sync", "write", "unlink"])
def test_a_crash_amid_making_the_index_anew_loses_nothing(
    folder: Path, open_store: Callable[[], OpenStore], point: str
) -> None:
    change(folder / "backlog.sqlite", 0, b"\xff" * 100)

    class DieAt(Watch):
        seen = 0

        def before(self, call: Call) -> int:
            if call.name.endswith(f".{point}"):
                DieAt.seen += 1
                if DieAt.seen == number:
                    os._exit(9)
            return 0

    def rebuild() -> None:
        watch_disk(folder, DieAt())
        SqliteStore(folder, LIMITS).recover()
        os._exit(0)

    number = 1
    while forks.run(rebuild) == 9:
        number += 1
        assert number < 100
    assert served(open_store()) == list(range(3, 45, 2))


def test_a_start_says_what_it_has_found_also_when_all_is_well(folder: Path) -> None:
    def started() -> tuple[str, ...]:
        backlog = Backlog(SqliteStore(folder, LIMITS))
        backlog.close()
        return backlog.recovered

    counted = "At its start the backlog had {} messages, {} dead letters and {} ids of finished messages; {}."
    assert started() == (counted.format(40, 2, 3, "nothing had to be repaired"),)
    change(folder / "backlog.sqlite", 0, b"\xff" * 100)
    summary, repair = started()
    assert summary == counted.format(21, 0, 0, "1 thing was repaired") and "made anew" in repair
    assert started() == (counted.format(21, 0, 0, "nothing had to be repaired"),)


def test_a_start_counts_in_the_singular_and_the_plural() -> None:
    entry, finished = Entry("plates", "m1", 1, 5), Finished("plates", "m2", b"", 0.0)
    assert Recovery((entry,), (entry,), (finished,), ("One.",)).summary() == (
        "At its start the backlog had 1 message, 1 dead letter and 1 id of finished messages; 1 thing was repaired."
    )
    assert "2 messages, 0 dead letters and 2 ids of finished messages; 2 things were repaired" in (
        Recovery((entry, entry), (), (finished, finished), ("One.", "Two.")).summary()
    )


def test_an_index_that_is_made_anew_says_how_many_rows_are_known_to_be_lost(
    folder: Path, open_store: Callable[[], OpenStore]
) -> None:
    with closing(sqlite3.connect(folder / "backlog.sqlite")) as connection:
        connection.execute("DELETE FROM payloads WHERE sequence IN (6, 8)")
        connection.execute("DELETE FROM entries WHERE sequence = 10")
        connection.commit()
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'finished_by_id'").fetchone()
    change(folder / "backlog.sqlite", (page - 1) * PAGE_BYTES, b"\xff" * PAGE_BYTES)
    assert "rows of small messages that are known to be lost: 3." in open_store().recovery.repairs[0]


def test_a_disk_that_cannot_be_read_is_an_error_and_not_damage(folder: Path) -> None:
    class CannotRead(Watch):
        def before(self, call: Call) -> int:
            return errno.EIO if call.name == "index.read" else 0

    def start() -> None:
        watch_disk(folder, CannotRead())
        with pytest.raises(StorageError, match="open the backlog"):
            SqliteStore(folder, LIMITS).recover()

    assert forks.run(start) == 0
    assert not (folder / "quarantine").exists()


def test_what_lies_behind_a_hole_in_the_index_is_served_too(tmp_path: Path) -> None:
    folder, count, hole_bytes = tmp_path / "backlog", 10_000, 16 * PAGE_BYTES
    opened = OpenStore(SqliteStore(folder, LIMITS))
    told = [opened.put_later(number, bytes(300))[1] for number in range(count)]
    assert [each.wait() for each in told] == [None] * count
    opened.store.close()
    index = folder / "backlog.sqlite"
    change(index, _leaves_from_the_middle(index, hole_bytes // PAGE_BYTES) * PAGE_BYTES, b"\xff" * hole_bytes)
    opened = OpenStore(SqliteStore(folder, LIMITS))
    found = []
    for entry in opened.recovery.entries:
        with suppress(StorageError):
            assert opened.read(entry) == bytes(300)
            found.append(entry.sequence)
    opened.store.close()
    assert "made anew" in opened.recovery.repairs[0]
    assert len(found) >= count - hole_bytes // 40  # No row is smaller.
    assert found[-1] == count - 1


def _leaves_from_the_middle(index: Path, count: int) -> int:
    """Return the first of so many pages in a row that hold rows, and no pointers to other pages (SQLite's type 13)."""
    kinds = index.read_bytes()[::PAGE_BYTES]
    return kinds.index(b"\x0d" * count, len(kinds) // 2)


def test_an_index_of_an_earlier_format_that_is_damaged_is_read_likewise(
    folder: Path, open_store: Callable[[], OpenStore]
) -> None:
    index = folder / "backlog.sqlite"
    with closing(sqlite3.connect(index)) as connection:
        connection.executescript("DROP TABLE shed; ALTER TABLE finished DROP COLUMN is_shed; PRAGMA user_version = 1;")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'finished_by_id'").fetchone()
    change(index, (page - 1) * PAGE_BYTES, b"\xff" * PAGE_BYTES)
    recovery = open_store().recovery
    assert "made anew" in recovery.repairs[0]
    assert (len(recovery.entries), len(recovery.finished)) == (40, 3)


def test_of_several_files_of_one_message_only_the_latest_is_adopted(
    tmp_path: Path, open_store: Callable[[], OpenStore]
) -> None:
    folder = tmp_path / "backlog"
    stored = OpenStore(SqliteStore(folder, LIMITS))
    for sequence, size_bytes in ((101, LARGE), (102, LARGE + 1), (103, LARGE + 2)):
        stored.put(sequence, bytes(size_bytes), message_id="again")
    stored.store.close()
    change(folder / "backlog.sqlite", 0, b"\xff" * 100)
    recovery = open_store().recovery
    assert [(each.sequence, each.size_bytes) for each in recovery.entries if each.message_id == "again"] == [
        (103, LARGE + 2)
    ]
    assert "2 told nothing new" in recovery.repairs[0]
    assert len(list(folder.glob("quarantine/1/10[12].bin"))) == 2


def test_damage_that_is_met_in_a_large_index_is_mended_by_the_next_start(
    folder: Path, open_store: Callable[[], OpenStore], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_salvage, "CHECKED_MAX_BYTES", 0)
    index = folder / "backlog.sqlite"
    with closing(sqlite3.connect(index)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'finished_by_id'").fetchone()
    change(index, (page - 1) * PAGE_BYTES, b"\xff" * PAGE_BYTES)
    opened = open_store()
    assert opened.recovery.repairs == ()
    told = Told()
    opened.store.finish([opened.recovery.entries[0]], DONE, told)
    assert isinstance(told.wait(), StorageError)
    assert "restart the master" in caplog.text
    opened = open_store()
    assert "made anew" in opened.recovery.repairs[0]
    opened.finish(opened.recovery.entries[0])
    assert open_store().recovery.repairs == ()
    assert not (folder / "damage-met").exists()
