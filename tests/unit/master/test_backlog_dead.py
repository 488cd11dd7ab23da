"""Dead letters: what people do with them."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import pytest

from benches.backlog import DONE, FATAL, Desk, HeldStore, crash
from benches.crash_points import CrashPoint
from benches.disk_calls import Call, watch_disk
from harmonicio.control.backlog_messages import LISTED_TEXT_LENGTH, MAX_PAGE, DeadChange, DeadChoice
from harmonicio.core.errors import InvalidInput, NotFound, StorageError
from harmonicio.core.message import Failure, Outcome, OutcomeKind, RejectReason
from harmonicio.master.backlog.budget import LedgerLimits
from harmonicio.master.backlog.clerk import UNREADABLE
from harmonicio.master.backlog.entry import ENTRY_OVERHEAD_BYTES, Death, Entry
from harmonicio.master.backlog.memory import MemoryStore
from harmonicio.master.backlog.outcome_codec import KeptOutcome
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.open_store import DEATH, OpenStore
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.frames import Flag

# ── replay and purge ─────────────────────────────────────────────────────────────────────────────────────────────────


def kill(desk: Desk, *message_ids: str, failure: Failure = FATAL, **more: object) -> None:
    """Put messages that their source has given up."""
    for message_id in message_ids:
        desk.put(message_id, flags=Flag.DEAD, failure=failure, **more)


def named(*message_ids: str) -> DeadChoice:
    return DeadChoice(message_ids)


def test_a_replayed_dead_letter_waits_again_in_its_place_as_if_it_had_never_been_tried(desk: Desk) -> None:
    desk.put("a")
    for _ in range(2):
        desk.backlog.sending([desk.reserve("e1#1")])
        crash(desk, "e1")
    desk.put("b")
    assert desk.backlog.upkeep.replay("plates", named("a")) == DeadChange(1)
    found = desk.backlog.upkeep.outcome("plates", "a")
    assert found is not None and (found.state, found.attempts, found.failure) == ("waiting", 0, None)
    again = desk.reserve("e2#1")
    assert (again.entry.message_id, again.attempt, again.entry.crashes) == ("a", 1, 0)
    assert again.entry.is_suspect
    with desk.backlog.open_payload(again) as payload:
        assert bytes(payload.view) == b"cells"
    desk.backlog.settle([again], DONE)
    assert desk.state("a") == "done"


def test_who_asks_for_the_outcome_of_a_replayed_message_hears_the_new_one(desk: Desk) -> None:
    kill(desk, "a")
    desk.subscribe("a")
    desk.backlog.upkeep.replay("plates", named("a"))
    desk.subscribe("a")
    assert [outcome and outcome.kind for _, outcome in desk.finals] == [OutcomeKind.FAILED]
    desk.backlog.settle([desk.reserve()], DONE)
    assert [outcome and outcome.kind for _, outcome in desk.finals] == [
        OutcomeKind.FAILED,
        OutcomeKind.DONE,
    ]


def test_who_asks_for_the_outcome_of_a_purged_message_hears_that_it_is_not_known(desk: Desk) -> None:
    kill(desk, "a")
    assert desk.backlog.upkeep.purge("plates", named("a")) == DeadChange(1)
    desk.subscribe("a")
    assert (desk.finals, desk.state("a")) == ([("a", None)], None)
    desk.put("a", b"other bytes")
    assert desk.state("a") == "waiting"


@pytest.mark.parametrize("verb", ["replay", "purge"])
@pytest.mark.parametrize("error", [None, StorageError("The disk is full.")], ids=["written", "not written"])
def test_while_a_change_is_written_the_letter_is_dead_and_nothing_is_said(
    verb: str, error: StorageError | None
) -> None:
    store = HeldStore()
    desk = Desk(store)
    store.is_holding = False
    kill(desk, "a")
    store.is_holding = True
    told: list[DeadChange | StorageError] = []

    def change() -> None:
        try:
            told.append(getattr(desk.backlog.upkeep, verb)("plates", named("a")))
        except StorageError as caught:
            told.append(caught)

    thread = threading.Thread(target=change)
    thread.start()
    wait_until(lambda: bool(store.held), what="the store to be asked")
    desk.subscribe("a")
    assert (desk.state("a"), desk.backlog.figures("plates").dead, desk.backlog.depth("plates")) == ("dead", 1, 0)
    assert desk.backlog.upkeep.replay("plates", named("a")) == DeadChange(0, ("a",))
    assert (told, desk.finals) == ([], [])
    store.release(error)
    thread.join()
    kinds = [outcome and outcome.kind for _, outcome in desk.finals]
    if error is not None:
        assert (told, desk.state("a"), kinds) == ([error], "dead", [OutcomeKind.FAILED])
    elif verb == "replay":
        assert (told, desk.state("a"), kinds) == ([DeadChange(1)], "waiting", [])
    else:
        assert (told, desk.state("a"), kinds) == ([DeadChange(1)], None, [None])
    store.is_holding = False
    desk.backlog.close()


def test_a_letter_whose_burial_is_not_written_yet_is_left_alone() -> None:
    store = HeldStore()
    desk = Desk(store)
    store.is_holding = False
    desk.put("a")
    store.is_holding = True
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.FAILED, failure=FATAL))
    assert desk.backlog.upkeep.replay("plates", named("a")) == DeadChange(0, ("a",))
    store.release()
    store.is_holding = False
    assert desk.backlog.upkeep.replay("plates", named("a")) == DeadChange(1)
    desk.backlog.close()


def test_letters_are_chosen_by_id_by_error_or_all_and_only_dead_ones(desk: Desk) -> None:
    kill(desk, "a", "b", failure=Failure("ValueError", "no cell"))
    kill(desk, "c", failure=Failure("OSError", "no disk"))
    desk.put("waiting")
    upkeep = desk.backlog.upkeep
    assert upkeep.replay("plates", named("a", "waiting", "nobody", "a")) == DeadChange(1, ("waiting", "nobody"))
    assert upkeep.purge("plates", DeadChoice(error_type="OSError")) == DeadChange(1)
    assert upkeep.replay("plates", DeadChoice(error_type="OSError")) == DeadChange(0)
    assert upkeep.replay("plates", DeadChoice(all=True)) == DeadChange(1)
    assert [desk.state(each) for each in ("a", "b", "c", "waiting")] == ["waiting", "waiting", None, "waiting"]


@pytest.mark.parametrize(
    "choice",
    [
        DeadChoice(),
        DeadChoice(("a",), all=True),
        DeadChoice(("a",), "ValueError"),
        DeadChoice(error_type="ValueError", all=True),
        DeadChoice(all=True, after="x"),
        DeadChoice(all=True, after="9" * 30),
        DeadChoice(tuple(map(str, range(1_001)))),
    ],
)
def test_a_choice_that_is_not_clear_changes_nothing(desk: Desk, choice: DeadChoice) -> None:
    kill(desk, "a")
    for change in (desk.backlog.upkeep.replay, desk.backlog.upkeep.purge):
        with pytest.raises(InvalidInput):
            change("plates", choice)
    assert desk.state("a") == "dead"


def test_more_letters_than_one_step_takes_are_changed_step_by_step(desk: Desk) -> None:
    ids = [f"m{number}" for number in range(2 * MAX_PAGE + 3)]
    kill(desk, *ids)
    changes = [desk.backlog.upkeep.replay("plates", DeadChoice(all=True))]
    while changes[-1].next:
        changes.append(desk.backlog.upkeep.replay("plates", DeadChoice(all=True, after=changes[-1].next)))
    assert [each.changed for each in changes] == [MAX_PAGE, MAX_PAGE, 3]
    assert (desk.backlog.figures("plates").dead, desk.backlog.depth("plates")) == (0, len(ids))
    assert [desk.reserve().entry.message_id for _ in ids] == ids


def test_pages_show_each_letter_once_and_say_why_it_died(desk: Desk) -> None:
    long = Failure("ValueError", "x" * 1_000, "Traceback …", retryable=False)
    kill(desk, "a", "b", "c", failure=long)
    kill(desk, "d", failure=FATAL)
    desk.clock.advance(7.0)
    upkeep = desk.backlog.upkeep
    first = upkeep.dead_letters("plates", limit=3)
    second = upkeep.dead_letters("plates", first.next, limit=3)
    assert [each.message for each in first.letters] == ["a", "b", "c"]
    assert [each.message for each in second.letters] == ["d"]
    assert (first.total, second.total, second.next) == (4, 4, "")
    shown = first.letters[0]
    assert (shown.text, shown.traceback, shown.dead_for_s) == ("x" * LISTED_TEXT_LENGTH, "", 7.0)
    whole = upkeep.dead_letter("plates", "a")
    assert (whole.text, whole.traceback, whole.died_at) == (long.text, "Traceback …", desk.clock.wall() - 7.0)
    with pytest.raises(NotFound, match=r"is no dead letter\. List them with: harmonicio dead ls plates"):
        upkeep.dead_letter("plates", "nobody")


def test_full_of_dead_letters_nothing_new_is_taken_until_some_are_replayed_or_purged() -> None:
    desk = Desk(MemoryStore(), LedgerLimits(dead_letter_bytes=ENTRY_OVERHEAD_BYTES))
    room = threading.Event()
    desk.backlog.set_listeners(on_room=room.set)
    for change in (desk.backlog.upkeep.purge, desk.backlog.upkeep.replay):
        kill(desk, "dead")
        desk.put("b")
        assert desk.answers[-1].reason is RejectReason.BACKLOG_FULL
        assert "harmonicio dead ls, dead replay, dead purge" in desk.answers[-1].text
        assert not desk.backlog.can_take(5)
        change("plates", named("dead"))
        assert room.wait(5.0) and desk.backlog.can_take(5)
        room.clear()
    desk.backlog.close()


def test_the_oldest_that_waits_may_be_one_that_was_dead(desk: Desk) -> None:
    kill(desk, "old")
    desk.clock.advance(100.0)
    desk.put("new")
    assert desk.backlog.figures("plates").oldest_age_s == 0.0
    desk.backlog.upkeep.replay("plates", named("old"))
    assert desk.backlog.figures("plates").oldest_age_s == 100.0


@pytest.mark.parametrize("verb", ["revive", "purge"])
def test_a_master_that_is_killed_amid_a_change_finds_each_letter_dead_or_changed(tmp_path: Path, verb: str) -> None:
    """It is killed at each call to the disk in turn, until it comes to the end."""
    sizes_bytes = (10, 100_000, 20)
    for number in count(1):
        folder = tmp_path / str(number)
        opened = OpenStore(SqliteStore(folder))
        entries = [opened.put(at, b"x" * size, death=DEATH, attempts=3) for at, size in enumerate(sizes_bytes, 1)]
        opened.store.close()
        is_over = run_until_killed(folder, number, verb)
        opened = OpenStore(SqliteStore(folder))
        dead, waiting = opened.recovery.dead, opened.recovery.entries
        changed = [] if verb == "purge" else [entry.sequence for entry in waiting]
        assert len(dead) in ([0] if is_over else [0, len(entries)]), f"killed at call {number}"
        assert sorted([entry.sequence for entry in dead] + changed) in ([1, 2, 3], [] if verb == "purge" else [1, 2, 3])
        assert all(entry.attempts == 0 for entry in waiting)
        for entry in (*dead, *waiting):
            assert opened.read(entry) == b"x" * entry.size_bytes
        opened.store.close()
        if is_over:
            assert number > 3, "the disk was hardly used"
            return


class LaterCrashPoint(CrashPoint):
    """Counts only from when it is armed."""

    is_armed = False

    def before(self, call: Call) -> int:
        return super().before(call) if self.is_armed else 0


def run_until_killed(folder: Path, number: int, verb: str) -> bool:
    """Change all dead letters in a process that dies at its n-th call to the disk; return whether it did not."""
    process = os.fork()
    if process == 0:
        with suppress(BaseException):
            crash_point = LaterCrashPoint("any", number)
            watch_disk(folder, crash_point)
            opened = OpenStore(SqliteStore(folder))
            crash_point.is_armed = True
            getattr(opened, verb)(*opened.recovery.dead)
            opened.store.close()
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(process, 0)
    assert status in (0, signal.SIGKILL), status
    return status == 0


def test_one_that_is_given_up_just_now_is_neither_replayed_nor_unknown_to_who_waits_for_it(desk: Desk) -> None:
    """The image is asked for between the decision and its writing, without any lock: others come in there."""
    desk.put("a")
    changes: list[DeadChange] = []

    def find_image(engine: str) -> str:
        desk.subscribe("a")
        changes.append(desk.backlog.upkeep.replay("plates", DeadChoice(("a",))))
        return ""

    desk.backlog.set_image_finder(find_image)
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.FAILED, failure=FATAL))
    assert changes == [DeadChange(0, ("a",))]
    assert desk.finals == [("a", Outcome(OutcomeKind.FAILED, failure=FATAL))]
    assert desk.backlog.upkeep.replay("plates", DeadChoice(("a",))) == DeadChange(1)


class Hooked(MemoryStore):
    """Something happens just before it is read why a message died."""

    def __init__(self) -> None:
        super().__init__()
        self.hooks: list[Callable[[], object]] = []

    def death(self, entry: Entry) -> Death | None:
        if self.hooks:
            self.hooks.pop()()
        return super().death(entry)


@pytest.mark.parametrize("verb", ["replay", "purge"])
def test_who_asks_just_while_a_letter_is_changed_hears_what_becomes_of_it(verb: str) -> None:
    store = Hooked()
    desk = Desk(store)
    kill(desk, "a")
    store.hooks.append(lambda: getattr(desk.backlog.upkeep, verb)("plates", named("a")))
    desk.subscribe("a")
    if verb == "replay":
        assert desk.finals == [], "it waits again, so nothing is known yet"
        desk.backlog.settle([desk.reserve()], DONE)
    assert desk.finals == [("a", DONE if verb == "replay" else None)]
    desk.backlog.close()


def test_a_letter_whose_record_cannot_be_read_says_so_and_the_others_are_shown(tmp_path: Path) -> None:
    folder = tmp_path / "backlog"
    desk = Desk(SqliteStore(folder))
    kill(desk, "a", "b")
    wait_until(lambda: len(desk.answers) == 2)
    desk.backlog.close()
    index = folder / "backlog.sqlite"
    with closing(sqlite3.connect(index)) as connection, connection:
        connection.execute("UPDATE entries SET failure = ? WHERE message_id = 'a'", (b"no record",))
    desk = Desk(SqliteStore(folder))
    letters = desk.backlog.upkeep.dead_letters("plates").letters
    assert [(each.message, each.error_type) for each in letters] == [("a", UNREADABLE), ("b", "ValueError")]
    assert "Its record cannot be read" in letters[0].text
    desk.subscribe("a")
    ((_, outcome),) = desk.finals
    assert outcome is not None and outcome.failure is not None and outcome.failure.error_type == UNREADABLE
    assert desk.backlog.upkeep.replay("plates", DeadChoice(error_type=UNREADABLE)) == DeadChange(1)
    desk.backlog.close()


class Unreadable(MemoryStore):
    """A store whose outcomes cannot be read."""

    def outcome(self, stream: str, message_id: str) -> KeptOutcome | None:
        raise StorageError("The disk does not answer.")


def test_when_a_letter_is_purged_and_its_outcome_cannot_be_read_all_who_wait_are_answered() -> None:
    desk = Desk(Unreadable())
    desk.put("a")
    entry = desk.backlog.entry("plates", "a")
    assert entry is not None
    desk.subscribe("a")
    desk.subscribe("a")
    desk.backlog._ledger.books.remove(entry)
    desk.backlog._clerk.ask_again(entry)
    assert desk.finals == [("a", None)] * 2
    desk.backlog.close()
