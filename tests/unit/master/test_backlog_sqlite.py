"""The SQLite store beyond the contract: kills, full disks, damaged files, two processes, other formats."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from unittest.mock import Mock

import pytest

from harmonicio.core.errors import Conflict, StorageError
from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.master.backlog.entry import Entry, Shed
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.master.backlog.sqlite_log import WriteAheadLog
from harmonicio.master.backlog.sqlite_schema import SCHEMA_VERSION
from harmonicio.master.backlog.sqlite_writer import SqliteWriter
from harmonicio.testing.open_store import OpenStore, Told

CHILD = Path(__file__).with_name("backlog_child.py")


@pytest.fixture(scope="module")
def payload_of() -> Callable[[int], bytes]:
    spec = spec_from_file_location("backlog_child", CHILD)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[int], bytes] = module.payload_of
    return found


def file_of(folder: Path, entry: Entry) -> Path:
    (path,) = folder.glob(f"**/{entry.sequence}.bin")
    return path


# ── kills ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lines", [1, 100, 500])
def test_whatever_was_reported_safe_survives_sigkill(
    tmp_path: Path, reopen: Callable[[], OpenStore], payload_of: Callable[[int], bytes], lines: int
) -> None:
    command = [sys.executable, str(CHILD), "kill", str(tmp_path / "backlog")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said = [child.stdout.readline().decode().split() for _ in range(lines + 1)]
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().decode()
    said += [line.split() for line in rest.splitlines()]
    stored = {int(words[1]) for words in said if words[0] == "stored"}
    done = {int(words[1]) for words in said if words[0] == "done"}

    opened = reopen()
    waiting = {entry.sequence: entry for entry in opened.recovery.entries}
    finished = {int(each.message_id[1:]) for each in opened.recovery.finished}
    assert stored <= waiting.keys() | finished
    assert done <= finished
    assert not waiting.keys() & finished
    assert opened.recovery.dead == ()
    for sequence, entry in waiting.items():
        assert opened.read(entry) == payload_of(sequence)
    for sequence in done:
        kept = opened.store.outcome("plates", f"m{sequence}")
        assert kept is not None and kept.outcome.result == sequence
    files = {int(path.stem) for path in tmp_path.glob("backlog/payloads/*/*")}
    assert files == {sequence for sequence, entry in waiting.items() if entry.size_bytes > 64 * 1024}


def test_a_full_disk_is_reported_leaves_nothing_behind_and_passes(
    tmp_path: Path, reopen: Callable[[], OpenStore], payload_of: Callable[[int], bytes]
) -> None:
    command = [sys.executable, str(CHILD), "full", str(tmp_path / "backlog")]
    ended = subprocess.run(command, capture_output=True, timeout=60)
    assert ended.returncode == 0, ended.stderr.decode()
    said = [line.rsplit(" ", 1) for line in ended.stdout.decode().splitlines()[1:]]
    stored = {int(number) for word, number in said if word == "stored"}
    failed = {int(number) for word, number in said if word == "failed"}
    done = {int(number) for word, number in said if word == "done"}
    assert 60 in failed and ["no room", "61"] in said
    assert len(failed) > 5 and set(range(62, 80)) <= stored

    opened = reopen()
    assert {entry.sequence for entry in opened.recovery.entries} == stored - done
    assert (opened.recovery.dead, opened.recovery.repairs) == ((), ())
    for entry in opened.recovery.entries:
        assert opened.read(entry) == payload_of(entry.sequence)


def test_a_full_disk_can_be_emptied_by_processing_what_is_on_it(tmp_path: Path) -> None:
    # A small disk of its own, in name spaces that end with the process.
    unshare = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    script = 'mount -t tmpfs -o size=6m none "$1" && exec "$2" "$3" drain "$1/backlog"'
    command = [*unshare, "sh", "-c", script, "sh", str(tmp_path), sys.executable, str(CHILD)]
    ended = subprocess.run(command, capture_output=True, timeout=60)
    assert ended.returncode == 0, ended.stderr.decode()
    said = [line.split() for line in ended.stdout.decode().splitlines()[1:]]
    stored = [number for word, number in said if word == "stored"]
    done = [number for word, number in said if word == "done"]
    assert len(done) > 10
    assert stored[:-1] == done
    assert said[-1][0] == "stored"


class BrokenIndex:
    """Makes writes to one table of a store's index fail with a text of choice."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "backlog.sqlite"

    def fail(self, table: str, text: str) -> None:
        self.mend(table)
        self._execute(f"CREATE TRIGGER no_{table} BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, '{text}'); END")

    def mend(self, table: str) -> None:
        self._execute(f"DROP TRIGGER IF EXISTS no_{table}")

    def _execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self._path, timeout=10.0)) as connection:
            connection.execute(statement)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged of the writer since it was asked last."""
    lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records if "written" in record.msg]
    caplog.clear()
    return lines


def finish(opened: OpenStore, entry: Entry) -> StorageError | None:
    answer = Told()
    opened.store.finish([entry], Outcome(OutcomeKind.DONE), answer)
    return answer.wait()


def test_each_trouble_with_the_disk_and_its_end_are_logged_once_although_nothing_is_put(
    tmp_path: Path, reopen: Callable[[], OpenStore], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    opened, index = reopen(), BrokenIndex(tmp_path / "backlog")
    entries = [opened.put(number, b"cells") for number in range(1, 6)]
    for text in ("the first trouble", "the second trouble"):
        index.fail("finished", text)
        assert finish(opened, entries[0]) is not None
        assert finish(opened, entries[0]) is not None
        (line,) = told(caplog)
        assert line.startswith("ERROR") and text in line
    index.mend("finished")
    assert finish(opened, entries.pop()) is None
    assert told(caplog) == ["INFO The backlog can be written again"]
    index.fail("finished", "the second trouble")
    assert finish(opened, entries[0]) is not None
    assert len(told(caplog)) == 1


def test_a_disk_that_fails_where_the_log_is_looked_at_leaves_nobody_without_an_answer(
    reopen: Callable[[], OpenStore], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = reopen()
    entries = [opened.put(number, b"cells") for number in range(1, 4)]

    def fail(log: WriteAheadLog) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(WriteAheadLog, "is_long", property(fail))
        assert [finish(opened, entry) for entry in entries] == [None] * 3
        assert len(told(caplog)) == 1
        assert opened.put_later(4, b"cells")[1].wait() is not None
    opened.put(5, b"cells")
    assert [entry.sequence for entry in reopen().recovery.entries] == [5]


def test_an_error_that_nobody_has_thought_of_does_not_end_the_thread_that_writes(
    reopen: Callable[[], OpenStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = reopen()
    with monkeypatch.context() as patched:
        patched.setattr(SqliteWriter, "_write", Mock(side_effect=MemoryError("no memory")))
        answer = opened.put_later(1, b"cells")[1].wait()
    assert answer is not None and "no memory" in str(answer)
    opened.put(2, b"cells")


def test_trouble_with_puts_lasts_until_one_succeeds_and_hides_no_other(
    tmp_path: Path, reopen: Callable[[], OpenStore], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    opened, index = reopen(), BrokenIndex(tmp_path / "backlog")
    entries = [opened.put(number, b"cells") for number in range(1, 6)]
    index.fail("entries", "the disk is full")
    for number in range(6, 9):
        assert opened.put_later(number, b"cells")[1].wait() is not None
        assert finish(opened, entries.pop()) is None
    (line,) = told(caplog)
    assert "the disk is full" in line
    index.fail("finished", "another trouble")
    assert finish(opened, entries[0]) is not None
    (line,) = told(caplog)
    assert "another trouble" in line
    index.mend("finished")
    index.mend("entries")
    assert finish(opened, entries[0]) is None
    assert told(caplog) == []
    opened.put(9, b"cells")
    assert told(caplog) == ["INFO The backlog can be written again"]


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_without_a_message_are_removed_and_strange_ones_are_left(
    tmp_path: Path, reopen: Callable[[], OpenStore]
) -> None:
    opened = reopen()
    kept = opened.put(1, b"x" * 100_000)
    folder = file_of(tmp_path, kept).parent
    for name in ("77.bin", "notes.txt", "1.bin.old", "99999.bin"):
        (folder / name).write_bytes(b"y" * 10)
    opened = reopen()
    assert sorted(path.name for path in folder.iterdir()) == ["1.bin", "1.bin.old", "99999.bin", "notes.txt"]
    assert opened.recovery.repairs == ("1 payload file without a message was removed.",)
    assert opened.read(opened.recovery.entries[0]) == b"x" * 100_000


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_message_whose_file_is_broken_becomes_a_dead_letter_and_the_rest_is_served(
    tmp_path: Path, reopen: Callable[[], OpenStore], damage: str
) -> None:
    opened = reopen()
    broken, whole = opened.put(1, b"x" * 100_000), opened.put(2, b"y" * 100_000)
    path = file_of(tmp_path, broken)
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, 50_000)
    opened = reopen()
    assert [entry.sequence for entry in opened.recovery.dead] == [1]
    assert len(opened.recovery.repairs) == 1 and "plates/'m1'" in opened.recovery.repairs[0]
    death = opened.store.death(opened.recovery.dead[0])
    assert death is not None and death.failure.error_type == "PayloadDamaged" and death.died_at > 0
    assert [opened.read(entry) for entry in opened.recovery.entries] == [b"y" * 100_000]
    assert whole.sequence == 2
    assert [entry.sequence for entry in reopen().recovery.dead] == [1]


def test_of_many_messages_whose_files_are_broken_a_few_are_named_and_the_others_counted(
    tmp_path: Path, reopen: Callable[[], OpenStore]
) -> None:
    opened = reopen()
    for sequence in range(1, 14):
        opened.put(sequence, b"x" * 70_000)
    for path in tmp_path.glob("backlog/payloads/*/*.bin"):
        path.unlink()
    recovery = reopen().recovery
    assert (len(recovery.dead), len(recovery.repairs)) == (13, 11)
    assert "plates/'m1'" in recovery.repairs[0]
    assert recovery.repairs[-1] == "So it was with 3 more."


@pytest.mark.parametrize("damage", ["missing", "short", "changed"])
def test_damage_while_the_store_is_open_shows_when_the_payload_is_read(
    tmp_path: Path, reopen: Callable[[], OpenStore], damage: str
) -> None:
    opened = reopen()
    entry = opened.put(1, b"x" * 2_000_000)
    path = file_of(tmp_path, entry)
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        os.truncate(path, 1)
    else:
        with path.open("r+b") as file:
            file.seek(1_500_000)
            file.write(b"y")
    with pytest.raises(StorageError) as caught:
        opened.store.read(entry)
    assert caught.value.retryable is (damage == "missing"), "what is not there may come back"


def test_a_changed_payload_inside_the_index_shows_when_it_is_read(
    tmp_path: Path, reopen: Callable[[], OpenStore]
) -> None:
    opened = reopen()
    opened.put(1, b"x" * 100)
    opened.store.close()
    connection = sqlite3.connect(tmp_path / "backlog" / "backlog.sqlite")
    connection.execute("UPDATE payloads SET payload = zeroblob(100)")
    connection.commit()
    connection.close()
    opened = reopen()
    with pytest.raises(StorageError) as caught:
        opened.store.read(opened.recovery.entries[0])
    assert not caught.value.retryable


# ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_one_process_has_the_store_open(tmp_path: Path, reopen: Callable[[], OpenStore]) -> None:
    opened = reopen()
    with pytest.raises(Conflict, match="Another process"):
        SqliteStore(tmp_path / "backlog").recover()
    opened.store.close()
    reopen()


def test_an_index_of_a_newer_release_is_refused_and_left_alone(tmp_path: Path, reopen: Callable[[], OpenStore]) -> None:
    opened = reopen()
    opened.put(1, b"x")
    opened.store.close()
    set_version(tmp_path, 99)
    with pytest.raises(StorageError, match="newer release"):
        reopen()
    set_version(tmp_path, SCHEMA_VERSION)
    assert len(reopen().recovery.entries) == 1


def test_an_index_of_an_earlier_release_is_brought_up_to_date(tmp_path: Path, reopen: Callable[[], OpenStore]) -> None:
    opened = reopen()
    opened.put(1, b"x")
    opened.store.close()
    with closing(sqlite3.connect(tmp_path / "backlog" / "backlog.sqlite")) as connection:
        connection.executescript("DROP TABLE shed; ALTER TABLE finished DROP COLUMN is_shed; PRAGMA user_version = 1;")
    opened = reopen()
    assert len(opened.recovery.entries) == 1
    opened.shed(opened.recovery.entries[0], Shed("plates", "m1", 0, 1, 0.0, "The backlog was full."))
    assert len(reopen().store.shed_records("plates", 10)) == 1


def set_version(folder: Path, version: int) -> None:
    connection = sqlite3.connect(folder / "backlog" / "backlog.sqlite")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="open the backlog"):
        SqliteStore(tmp_path / "file" / "backlog").recover()
