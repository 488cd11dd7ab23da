"""What the SQLite store keeps in memory, and what it fetches from the disk before it is asked for."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonicio.master.backlog import payload_files
from harmonicio.master.backlog.base import StoreLimits
from harmonicio.master.backlog.entry import Entry
from harmonicio.master.backlog.payload_files import PayloadFiles
from harmonicio.master.backlog.payload_memory import PayloadMemory
from harmonicio.master.backlog.read_ahead import MAX_WAITING
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.open_store import OpenStore
from harmonicio.testing.waiting import wait_until

LARGE = os.urandom(300_001)
SMALL = b"cells"
UNUSED = "<PayloadMemory: 0 of"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[OpenStore]:
    """A store with room in memory for two large payloads."""
    opened = OpenStore(SqliteStore(tmp_path / "backlog", StoreLimits(hot_cache_bytes=700_000)))
    yield opened
    opened.store.close()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what the kernel is asked to read."""
    sizes: list[int] = []
    usual = os.posix_fadvise

    def advise(fd: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        usual(fd, offset, length, advice)
        sizes.append(length)

    monkeypatch.setattr(payload_files.os, "posix_fadvise", advise)
    return sizes


def test_what_stays_in_memory_is_on_the_disk_as_whole_as_what_does_not(tmp_path: Path, opened: OpenStore) -> None:
    entries = [opened.put(sequence, LARGE) for sequence in range(1, 5)]
    assert opened.store.in_memory[0] == 2 * len(LARGE)
    files = sorted((tmp_path / "backlog").glob("payloads/*/*.bin"))
    assert [path.read_bytes()[: len(LARGE)] == LARGE for path in files] == [True] * 4
    opened.store.close()
    again = OpenStore(SqliteStore(tmp_path / "backlog"))
    assert [again.read(entry) == LARGE for entry in entries] == [True] * 4
    assert again.recovery.repairs == ()
    again.store.close()


def test_memory_is_free_again_when_what_lay_in_it_is_stored_or_finished(opened: OpenStore) -> None:
    entries = [opened.put(sequence, LARGE) for sequence in range(1, 9)]
    wait_until(lambda: opened.store.in_memory[0] == 2 * len(LARGE))
    for entry in entries:
        with opened.store.read(entry) as payload:
            assert payload.view == LARGE
    del payload
    for entry in entries:
        opened.finish(entry)
    wait_until(lambda: UNUSED in repr(opened.store))


def test_a_payload_that_could_not_be_stored_is_not_kept_in_memory(
    opened: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(payload_files.PayloadFiles, "write", refuse)
    _, told = opened.put_later(1, LARGE)
    assert "no room" in str(told.wait())
    wait_until(lambda: opened.store.in_memory[0] == 0)


def test_only_what_has_to_be_read_from_a_file_is_fetched_ahead(opened: OpenStore, fetched: list[int]) -> None:
    hot, also_hot, cold = (opened.put(sequence, LARGE) for sequence in (1, 2, 3))
    small, on_disk = opened.put(4, SMALL), opened.put(5, LARGE, to_disk=True)
    for entry in (hot, also_hot, cold, small, on_disk):
        opened.store.read_ahead(entry)
    wait_until(lambda: fetched == [len(LARGE)] * 2)
    assert opened.read(cold) == opened.read(on_disk) == LARGE


def test_to_fetch_what_is_not_there_harms_nobody(tmp_path: Path, opened: OpenStore, fetched: list[int]) -> None:
    lost, there = opened.put(1, LARGE, to_disk=True), opened.put(2, LARGE, to_disk=True)
    next((tmp_path / "backlog").glob("payloads/*/1.bin")).unlink()
    opened.store.read_ahead(lost)
    opened.store.read_ahead(there)
    wait_until(lambda: fetched == [len(LARGE)])
    opened.store.close()
    opened.store.read_ahead(there)
    assert fetched == [len(LARGE)]


def test_a_payload_of_which_no_digest_is_known_is_what_was_stored(tmp_path: Path) -> None:
    files, memory = PayloadFiles(tmp_path / "payloads"), PayloadMemory()
    files.prepare()
    entry = Entry("plates", "m1", 1, len(LARGE), digest=b"")
    files.write(entry, memoryview(LARGE))
    used = memory.take(len(LARGE))
    used[:] = b"S" * len(LARGE)
    del used
    assert files.read(entry, memory, 2**30).view == LARGE


def test_beyond_what_may_be_in_memory_payloads_are_mapped(tmp_path: Path) -> None:
    files, memory = PayloadFiles(tmp_path / "payloads"), PayloadMemory()
    files.prepare()
    entries = [Entry("plates", f"m{number}", number, len(LARGE), digest=b"") for number in (1, 2)]
    for entry in entries:
        files.write(entry, memoryview(LARGE))
    leases = [files.read(entry, memory, 400_000) for entry in entries]
    assert [lease.view == LARGE for lease in leases] == [True, True]
    assert memory.used_bytes < 400_000
    for lease in leases:
        lease.close()


def test_what_is_fetched_ahead_holds_up_no_write(opened: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [opened.put(sequence, LARGE) for sequence in range(1, 5)]
    may_end = threading.Event()
    begun = threading.Semaphore(0)

    def fetch_slowly(_: Entry) -> None:
        begun.release()
        may_end.wait(30)

    monkeypatch.setattr(opened.store._ahead, "_fetch", fetch_slowly)
    try:
        for _ in range(2 * MAX_WAITING):
            opened.store.read_ahead(entries[-1])
        assert begun.acquire(timeout=20)
        opened.put(9, LARGE)  # It waits until it is stored.
        assert f"{MAX_WAITING} to fetch" in repr(opened.store._ahead)
    finally:
        may_end.set()
