"""Payload files that cannot be read for a while: nothing is given up for a share or a disk that comes back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benches.backlog import DONE, Desk
from harmonicio.core.errors import StorageError
from harmonicio.master.backlog.base import StoreLimits
from harmonicio.master.backlog.ledger import UNREADABLE_S, UNREADABLE_TRIES
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.open_store import OpenStore
from harmonicio.testing.waiting import wait_until

LIMITS = StoreLimits(hot_cache_bytes=0)
PAYLOAD = b"x" * 100_000


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(SqliteStore(tmp_path / "backlog", LIMITS))
    desk.put("a", PAYLOAD)
    wait_until(lambda: desk.answers, what="the message to be stored")
    yield desk
    desk.backlog.close()


def try_to_read(desk: Desk) -> float:
    """Give the message out when its time has come, in vain; return how long it took to come."""
    waited_s = 0.0
    while desk.backlog.depth("plates") == 0 and waited_s <= 100.0:
        desk.clock.advance(0.5)
        desk.backlog.tick()
        waited_s += 0.5
    with pytest.raises(StorageError):
        desk.backlog.open_payload(desk.reserve())
    return waited_s


def test_a_payload_that_is_away_for_half_an_hour_costs_its_message_nothing_but_time(desk: Desk, tmp_path: Path) -> None:
    away, payloads = tmp_path / "away", tmp_path / "backlog" / "payloads"
    payloads.rename(away)
    pauses_s = [try_to_read(desk) for _ in range(40)]
    assert pauses_s[0] == 0 and pauses_s[1] <= 1.0 and 30.0 <= max(pauses_s) <= 60.0
    found = desk.backlog.upkeep.outcome("plates", "a")
    assert found is not None and (found.state, found.attempts) == ("waiting", 0)
    away.rename(payloads)
    desk.clock.advance(60.0)
    desk.backlog.tick()
    reservation = desk.reserve()
    with desk.backlog.open_payload(reservation) as payload:
        assert payload.view == PAYLOAD
    desk.backlog.settle([reservation], DONE)
    wait_until(lambda: desk.state("a") == "done", what="the message to be done")


def test_a_payload_that_stays_away_makes_a_dead_letter_after_an_hour_of_tries(desk: Desk, tmp_path: Path) -> None:
    (path,) = tmp_path.glob("backlog/payloads/*/*.bin")
    aside = path.rename(tmp_path / "aside.bin")
    waited_s, tries = 0.0, 0
    while desk.state("a") == "waiting":
        waited_s, tries = waited_s + try_to_read(desk), tries + 1
    assert tries >= UNREADABLE_TRIES and UNREADABLE_S <= waited_s <= UNREADABLE_S + 60.0
    letter = desk.backlog.upkeep.dead_letter("plates", "a")
    assert letter.error_type == "PayloadUnreadable" and "No such file" in letter.text
    aside.rename(path)
    assert desk.backlog.entry("plates", "a") is not None, "it can be replayed"


def test_tries_that_failed_before_the_payload_could_be_read_do_not_count(desk: Desk, tmp_path: Path) -> None:
    (path,) = tmp_path.glob("backlog/payloads/*/*.bin")
    for _ in range(3):
        aside = path.rename(tmp_path / "aside.bin")
        for _ in range(UNREADABLE_TRIES - 1):
            try_to_read(desk)
        desk.clock.advance(UNREADABLE_S)
        desk.backlog.tick()
        aside.rename(path)
        desk.backlog.open_payload(desk.reserve()).close()
        desk.backlog.engine_gone("e1")
    assert desk.state("a") == "waiting"


@pytest.mark.parametrize("way", ["gone", "not mounted"])
def test_a_start_without_the_folder_of_payloads_is_refused_and_says_what_to_do(
    tmp_path: Path, reopen: Callable[[], OpenStore], way: str
) -> None:
    opened = reopen()
    entry = opened.put(1, PAYLOAD)
    opened.bury(opened.put(2, PAYLOAD))
    opened.store.close()
    payloads, away = tmp_path / "backlog" / "payloads", tmp_path / "away"
    payloads.rename(away)
    if way == "not mounted":
        payloads.mkdir()
    for _ in range(2):
        with pytest.raises(StorageError) as caught:
            reopen()
        assert f"{payloads} is missing" in caught.value.text and "names 2 payloads" in caught.value.text
        assert f"mkdir -p {payloads}/00" in caught.value.hint
    if way == "not mounted":
        payloads.rmdir()
    assert not payloads.exists(), "nothing is made in its place"
    away.rename(payloads)
    opened = reopen()
    assert opened.recovery.repairs == () and opened.read(opened.recovery.entries[0]) == PAYLOAD
    assert entry.sequence == 1


def test_who_says_that_the_payloads_are_lost_can_start_and_finds_dead_letters(
    tmp_path: Path, reopen: Callable[[], OpenStore]
) -> None:
    opened = reopen()
    opened.put(1, PAYLOAD)
    opened.put(2, b"small")
    opened.store.close()
    shutil.rmtree(tmp_path / "backlog" / "payloads")
    (tmp_path / "backlog" / "payloads" / "00").mkdir(parents=True)
    opened = reopen()
    assert [entry.sequence for entry in opened.recovery.dead] == [1]
    assert [entry.sequence for entry in opened.recovery.entries] == [2]


def test_a_folder_that_is_missing_while_the_index_is_damaged_refuses_the_start_too(
    tmp_path: Path, reopen: Callable[[], OpenStore]
) -> None:
    opened = reopen()
    opened.put(1, PAYLOAD)
    opened.store.close()
    os.truncate(tmp_path / "backlog" / "backlog.sqlite", 5_000)
    payloads, away = tmp_path / "backlog" / "payloads", tmp_path / "away"
    payloads.rename(away)
    with pytest.raises(StorageError, match="payloads is missing"):
        reopen()
    away.rename(payloads)
    assert reopen().read(reopen().recovery.entries[0]) == PAYLOAD


@pytest.mark.parametrize("damage", ["torn", "gone"])
def test_who_says_that_the_payloads_are_lost_can_start_with_a_damaged_index_too(
    tmp_path: Path, reopen: Callable[[], OpenStore], damage: str
) -> None:
    opened = reopen()
    opened.put(1, PAYLOAD)
    opened.store.close()
    index, payloads = tmp_path / "backlog" / "backlog.sqlite", tmp_path / "backlog" / "payloads"
    shutil.rmtree(payloads)
    with index.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3_900)
    if damage == "gone":
        index.unlink()
    else:
        with pytest.raises(StorageError, match="and the index is damaged"):
            reopen()
    (payloads / "00").mkdir(parents=True)
    opened = reopen()
    assert (len(opened.recovery.repairs), opened.recovery.entries) == (int(damage == "torn"), ())
    opened.put(2, PAYLOAD)
    assert [opened.read(entry) for entry in reopen().recovery.entries] == [PAYLOAD]


def test_an_index_without_large_messages_needs_no_folder_of_payloads(
    tmp_path: Path, reopen: Callable[[], OpenStore]
) -> None:
    opened = reopen()
    opened.put(1, b"small")
    opened.store.close()
    shutil.rmtree(tmp_path / "backlog" / "payloads")
    opened = reopen()
    opened.put(2, PAYLOAD)
    assert [entry.sequence for entry in reopen().recovery.entries] == [1, 2]


def test_one_file_that_cannot_be_looked_at_does_not_keep_the_others_from_being_served(
    tmp_path: Path, reopen: Callable[[], OpenStore]
) -> None:
    opened = reopen()
    for number in (1, 2):
        opened.put(number, PAYLOAD)
    opened.store.close()
    (path,) = tmp_path.glob("backlog/payloads/*/1.bin")
    elsewhere = tmp_path / "elsewhere.bin"
    path.rename(elsewhere)
    path.symlink_to(path)  # It leads to itself: whoever looks at it gets an error.
    opened = reopen()
    assert [entry.sequence for entry in opened.recovery.entries] == [1, 2]
    with pytest.raises(StorageError) as caught:
        opened.read(opened.recovery.entries[0])
    assert caught.value.retryable and opened.read(opened.recovery.entries[1]) == PAYLOAD
    path.unlink()
    elsewhere.rename(path)
    assert opened.read(opened.recovery.entries[0]) == PAYLOAD
