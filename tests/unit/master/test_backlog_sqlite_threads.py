"""The SQLite store on a host that has no thread to spare: a message is stored, and answered once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import Mock

import pytest

from benches.no_threads import no_threads
from harmonicio.core.errors import HarmonicIOError
from harmonicio.master.backlog.base import StoreLimits
from harmonicio.master.backlog.digest import digest_of
from harmonicio.master.backlog.entry import Entry
from harmonicio.master.backlog.payload_files import FilePayload
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.open_store import OpenStore
from harmonicio.testing.waiting import wait_until

SIZE_BYTES = 200_000


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[OpenStore]:
    opened = OpenStore(SqliteStore(tmp_path / "backlog", StoreLimits(hot_cache_bytes=0)))
    yield opened
    opened.store.close()


@pytest.mark.parametrize("to_disk", [False, True])
def test_a_large_message_is_stored_and_answered_once_while_no_thread_can_be_started(
    tmp_path: Path, opened: OpenStore, to_disk: bool
) -> None:
    answers = Mock()
    with no_threads("backlog-file"):
        for sequence in range(1, 4):
            payload = opened.store.new_payload(sequence, SIZE_BYTES, to_disk=to_disk)
            payload.buffer[:] = b"x" * SIZE_BYTES
            entry = Entry("plates", f"m{sequence}", sequence, SIZE_BYTES, digest=digest_of(payload.buffer))
            opened.store.put(entry, payload, answers)
    opened.put(4, b"y" * SIZE_BYTES, to_disk=to_disk)
    wait_until(lambda: answers.call_count >= 3)
    opened.store.close()
    again = OpenStore(SqliteStore(tmp_path / "backlog"))
    assert [call.args for call in answers.call_args_list] == [(None,)] * 3
    assert [again.read(entry)[-1:] for entry in again.recovery.entries] == [b"x", b"x", b"x", b"y"]
    assert again.recovery.repairs == ()
    again.store.close()


def test_a_store_whose_file_thread_cannot_be_started_says_so_and_lets_its_folder_go(tmp_path: Path) -> None:
    with no_threads("backlog-file"), pytest.raises(HarmonicIOError, match="No thread can be started"):
        SqliteStore(tmp_path / "backlog").recover()
    OpenStore(SqliteStore(tmp_path / "backlog")).store.close()


def test_what_was_discarded_is_not_written_into_a_file_that_has_its_descriptor_now(
    tmp_path: Path, opened: OpenStore
) -> None:
    payload = opened.store.new_payload(1, SIZE_BYTES, to_disk=True)
    assert isinstance(payload, FilePayload)
    payload.discard()
    other = tmp_path / "other"
    other.write_bytes(b"its own")
    with ExitStack() as files:
        for _ in range(64):  # One of them has the number.
            files.enter_context(other.open("r+b"))
        with pytest.raises(OSError):
            payload.flush(Entry("plates", "m1", 1, SIZE_BYTES, digest=b""))
    assert other.read_bytes() == b"its own"
