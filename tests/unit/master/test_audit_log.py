"""The audit log as files: what is changed afterwards is found, what a crash leaves is no damage, and it stays small."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harmonicio.core.clock import SystemClock
from harmonicio.master import audit_log
from harmonicio.master.audit_log import AuditLog, Deed

DEED = Deed("ada", "admin", "127.0.0.1", "streams.scale", {"stream": "plates"}, {"engines": 3})
MANY = 1_000

pytestmark = pytest.mark.row("S28")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def log(folder: Path) -> AuditLog:
    log = AuditLog(folder, SystemClock())
    for _ in range(5):
        log.add(DEED, 200)
    return log


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def lines(folder: Path) -> list[bytes]:
    return only_file(folder).read_bytes().splitlines(keepends=True)


def test_records_say_who_did_what_and_when_and_none_but_this_user_may_read_them(log: AuditLog, folder: Path) -> None:
    view = log.view(2)
    assert [each.number for each in view.records] == [4, 5] and view.kept == 5 and not view.damage
    last = view.records[-1]
    assert (last.who, last.role, last.came_from, last.did) == ("ada", "admin", "127.0.0.1", "streams.scale")
    assert (last.names, last.details, last.status) == ({"stream": "plates"}, {"engines": 3}, 200)
    assert abs(last.at - SystemClock().wall()) < 60
    assert only_file(folder).stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700


def test_the_next_master_goes_on_where_the_last_one_ended(log: AuditLog, folder: Path) -> None:
    again = AuditLog(folder, SystemClock())
    again.add(DEED, 409)
    view = again.view(MANY)
    assert [each.number for each in view.records] == [1, 2, 3, 4, 5, 6] and not view.damage


Change = Callable[[list[bytes]], list[bytes]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda all_: [*all_[:1], all_[1].replace(b"ada", b"eve"), *all_[2:]], "Line 2 of 000000000001.jsonl is not"),
        (lambda all_: [*all_[:2], *all_[3:]], "Record 4 does not follow on record 2."),
        (lambda all_: [*all_[:2], all_[1], *all_[2:]], "Record 2 does not follow on record 2."),
        (lambda all_: [all_[0], all_[2], all_[1], *all_[3:]], "Record 3 does not follow on record 1."),
        (lambda all_: all_[1:], "What was before record 2 is not here."),
        (lambda all_: all_[:-1], "Record 5, the last one that was written, is not the last one that is here."),
        (lambda all_: [], "Record 5, the last one that was written, is not the last one that is here."),
        (lambda all_: [*all_[:3], b"nonsense\n", *all_[3:]], "Line 4 of 000000000001.jsonl is not what was written."),
    ],
    ids=["changed", "removed", "doubled", "moved", "first removed", "last removed", "all removed", "nonsense"],
)
def test_what_is_changed_afterwards_is_found_and_said_where(
    log: AuditLog, folder: Path, change: Change, said: str
) -> None:
    only_file(folder).write_bytes(b"".join(change(lines(folder))))
    assert log.view(1).damage[0].startswith(said)
    log.add(DEED, 200)
    assert log.view(1).damage, "what is written afterwards hides nothing"


@pytest.mark.parametrize("kept", [1, 100, -1], ids=["a byte", "a part", "all but its end"])
def test_a_line_that_a_crash_has_cut_off_is_removed_and_is_no_damage(log: AuditLog, folder: Path, kept: int) -> None:
    whole = lines(folder)
    only_file(folder).write_bytes(b"".join(whole[:-1]) + whole[-1][:kept])
    again = AuditLog(folder, SystemClock())
    again.add(DEED, 200)
    view = again.view(MANY)
    assert [each.number for each in view.records] == [1, 2, 3, 4, 5] and not view.damage


def test_what_the_disk_does_not_take_is_logged_and_counted_and_leaves_no_half_a_line(
    log: AuditLog, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        log.add(DEED, 200)
        log.add(DEED, 200)
    assert caplog.text.count("Not in the audit log, because No space left on device") == 2
    log.add(DEED, 200)
    view = log.view(MANY)
    assert (view.kept, view.records[-1].number, view.records[-1].missing) == (6, 6, 2) and not view.damage


def test_a_file_that_may_not_outlast_a_crash_holds_no_record_yet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    log = AuditLog(folder, SystemClock())
    with monkeypatch.context() as patch:
        patch.setattr(audit_log, "sync_folder", failing)
        log.add(DEED, 200)
    log.add(DEED, 200)
    view = log.view(MANY)
    assert [(each.number, each.missing) for each in view.records] == [(1, 1)] and not view.damage


def test_the_oldest_records_make_room_and_the_chain_holds_across_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "MAX_FILE_BYTES", 2_000)
    monkeypatch.setattr(audit_log, "MAX_FILES", 3)
    log = AuditLog(folder, SystemClock())
    for _ in range(60):
        log.add(DEED, 200)
    assert len(list(folder.iterdir())) == 3 and sum(each.stat().st_size for each in folder.iterdir()) <= 6_000
    view = AuditLog(folder, SystemClock()).view(MANY)
    assert view.records[-1].number == 60 and view.kept < 30 and not view.damage
    min(folder.iterdir()).unlink()
    assert log.view(1).damage[0].startswith("What was before record")
