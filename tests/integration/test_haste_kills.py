"""Processes that keep the same messages, killed at every point: what is left is one row and one copy of each."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from harmonicio.haste.feature_db import sqlite
from harmonicio.haste.feature_db.base import FeatureRow, RowFilter
from harmonicio.haste.feature_db.sqlite import SqliteFeatureDatabase
from harmonicio.haste.storage_client import StorageClient
from harmonicio.haste.tiers import file
from harmonicio.haste.tiers.file import FileTier

STREAM = "plates"
SEED = 20180712
ROUNDS = 25
MESSAGES = 8
#: Where a process dies: (owner, function, whether it has returned by then).
POINTS: dict[str, tuple[Any, str, bool]] = {
    "before the payload is written": (FileTier, "write", False),
    "when the draft is made": (file, "_write_whole", False),
    "when the draft is whole": (file, "_write_whole", True),
    "when the payload has its name": (file, "_take_name", True),
    "when the payload is written": (FileTier, "write", True),
    "before the row is committed": (SqliteFeatureDatabase, "commit_many", False),
    "within the transaction": (sqlite, "_commit", True),
    "when the row is committed": (SqliteFeatureDatabase, "commit_many", True),
    "before another copy is taken back": (FileTier, "remove", False),
}

_fork = get_context("fork")


def open_client(folder: Path) -> StorageClient:
    return StorageClient.from_options(
        {
            "function": {"name": "feature", "feature": "focus"},
            "policy": {"intervals": [[0, 0.5, "B"], [0.5, 1, "A"]]},
            "tiers": {name: {"folder": str(folder / name)} for name in ("A", "B", "unscored")},
            "feature_db": {"driver": "sqlite", "file": str(folder / "features.sqlite")},
        }
    )


def payload_of(message_id: str) -> bytes:
    return random.Random(message_id).randbytes(50_000)


def save(client: StorageClient, message_id: str, focus: float = 0.8, attempt: int = 1) -> FeatureRow:
    return client.save(
        payload_of(message_id), features={"focus": focus}, message_id=message_id, stream=STREAM, attempt=attempt
    )


def in_a_process(work: Callable[[], object]) -> BaseProcess:
    process = _fork.Process(target=work)
    process.start()
    return process


def dying(function: Callable[..., Any], *, has_returned: bool) -> Callable[..., Any]:
    """Return the function, which kills its process before or after it does its work."""

    def die(*given: Any, **more: Any) -> None:
        if has_returned:
            function(*given, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    return die


def check_that_each_is_kept_once(client: StorageClient, folder: Path, message_ids: list[str]) -> None:
    """One row, one copy with the right bytes, and nothing else once what crashes have left is removed."""
    assert client.reconcile(STREAM, older_than_s=0).missing == ()
    rows = client.rows(RowFilter(STREAM))
    assert sorted(row.message_id for row in rows) == sorted(message_ids)
    assert all(client.read(row) == payload_of(row.message_id) for row in rows)
    copies = {str(path.relative_to(folder)) for tier in "AB" for path in (folder / tier).rglob("*") if path.is_file()}
    assert copies == {f"{row.tier}/{row.location}" for row in rows}


@pytest.mark.parametrize("focus", [0.8, 0.2], ids=["decided alike", "decided otherwise"])
@pytest.mark.parametrize("point", POINTS)
def test_a_message_whose_process_is_killed_is_kept_once_when_it_comes_again(
    tmp_path: Path, point: str, focus: float
) -> None:
    owner, name, has_returned = POINTS[point]
    if name == "remove":
        with open_client(tmp_path) as client:
            save(client, "m1", 0.2)

    def save_and_die() -> None:
        setattr(owner, name, dying(getattr(owner, name), has_returned=has_returned))
        save(open_client(tmp_path), "m1")

    process = in_a_process(save_and_die)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with open_client(tmp_path) as client:
        row = save(client, "m1", focus, attempt=2)
        assert save(client, "m1", 1 - focus, attempt=3) == row
        named = [path for tier in "AB" for path in (tmp_path / tier).glob("*/m1")]
        assert tmp_path / row.tier / row.location in named
        if focus == 0.8 and name != "remove":
            assert len(named) == 1
        check_that_each_is_kept_once(client, tmp_path, ["m1"])


def test_processes_that_are_killed_at_any_time_amid_the_same_messages_leave_each_once(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    done: list[str] = []
    for number in range(ROUNDS):
        fresh = [f"r{number}-m{each}" for each in range(MESSAGES)]
        begun, begins = os.pipe()

        def keep_all(focus: float, wanted: tuple[str, ...] = tuple(fresh), begins: int = begins) -> None:
            client = open_client(tmp_path)
            for message_id in cycle(wanted):
                os.write(begins, b".")
                save(client, message_id, focus)

        processes = [in_a_process(lambda focus=focus: keep_all(focus)) for focus in (0.8, 0.2)]
        for process in processes:
            for _ in range(chance.randint(1, MESSAGES)):
                os.read(begun, 1)
            time.sleep(chance.uniform(0, 0.005))
            process.kill()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 2
        os.close(begun)
        os.close(begins)
        with open_client(tmp_path) as client:
            for message_id in fresh:
                save(client, message_id, chance.choice((0.2, 0.8)), attempt=2)
        done += fresh
    with open_client(tmp_path) as client:
        check_that_each_is_kept_once(client, tmp_path, done)


@pytest.mark.parametrize("number", range(5))
def test_processes_that_open_a_new_database_at_once_agree_on_every_message(tmp_path: Path, number: int) -> None:
    gate, starter = os.pipe()
    message_ids = [f"m{each}" for each in range(MESSAGES)]

    def keep_all(focus: float) -> None:
        os.close(starter)
        os.read(gate, 1)
        with open_client(tmp_path) as client:
            for message_id in message_ids:
                save(client, message_id, focus)

    processes = [in_a_process(lambda focus=focus: keep_all(focus)) for focus in (0.1, 0.3, 0.7, 0.9)]
    for end in (starter, gate):
        os.close(end)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    with open_client(tmp_path) as client:
        named = [path.name for tier in "AB" for path in (tmp_path / tier).rglob("*") if path.is_file()]
        assert sorted(named) == sorted(message_ids)
        check_that_each_is_kept_once(client, tmp_path, message_ids)
