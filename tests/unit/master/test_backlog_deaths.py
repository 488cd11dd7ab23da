"""What a dead letter says of how its message died, and what counts against a message."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benches.backlog import ERROR, FATAL, PLATES, Desk, crash
from harmonicio.control.backlog_messages import DeadChange, DeadChoice
from harmonicio.control.messages import EngineExit
from harmonicio.core.engine import ExitReason
from harmonicio.core.message import Failure, Outcome, OutcomeKind
from harmonicio.master.backlog.entry import ENTRY_OVERHEAD_BYTES
from harmonicio.master.backlog.memory import MemoryStore
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.frames import Flag

#: Ends of engines for which no message is to blame.
INNOCENT = [each for each in ExitReason if each not in (ExitReason.CRASHED, ExitReason.TIMED_OUT)]


def test_a_dead_letter_says_how_the_last_engine_ended_and_which_it_was(desk: Desk) -> None:
    desk.backlog.set_image_finder(lambda engine: f"sha256:{engine}")
    desk.backlog.declare(replace(PLATES, version=4))
    desk.put("a")
    for engine, text in (("e1", "It ended with exit code 3."), ("e2", "It ended by signal 9. Killed: no memory.")):
        desk.reserve(f"{engine}#1")
        crash(desk, engine, text)
    entry = desk.backlog.entry("plates", "a")
    assert entry is not None
    death = desk.store.death(entry)
    assert death is not None
    assert death.failure.error_type == "EngineCrashed"
    assert death.failure.text == (
        "Engines that crashed while they handled it: 2. The last one: It ended by signal 9. Killed: no memory."
    )
    assert (death.engine, death.image, death.stream_version) == ("e2", "sha256:e2", 4)
    assert death.died_at == desk.clock.wall()


def test_a_message_that_arrives_after_it_ended_its_engines_is_dead_at_once_and_says_how(desk: Desk) -> None:
    for engine in ("e1", "e2"):
        crash(desk, engine)
    desk.put("a")
    entry = desk.backlog.entry("plates", "a")
    assert entry is not None
    death = desk.store.death(entry)
    assert death is not None and (death.engine, death.failure.error_type) == ("e2", "EngineCrashed")
    assert death.failure.text.endswith("it: 2. The last one: It ended by signal 9.")


def test_who_has_it_now_is_not_overwritten_by_word_of_an_engine_that_had_it_before(desk: Desk) -> None:
    desk.put("a")
    desk.reserve("e1#1")
    desk.backlog.engine_gone("e1#1")
    current = desk.reserve("e2#1")
    crash(desk, "e1")
    desk.backlog.settle([current], Outcome(OutcomeKind.FAILED, failure=FATAL))
    entry = desk.backlog.entry("plates", "a")
    assert entry is not None
    death = desk.store.death(entry)
    assert death is not None and (death.engine, death.failure, entry.crashes) == ("e2", FATAL, 1)


@pytest.mark.parametrize("reason", INNOCENT)
def test_an_end_that_is_no_fault_of_a_message_counts_nothing(desk: Desk, reason: ExitReason) -> None:
    desk.put("a")
    for _ in range(5):
        desk.reserve("e1#1")
        desk.backlog.engine_gone("e1#1")
        desk.backlog.engine_exited(EngineExit("e1", "plates", reason, held=("a",)))
    found = desk.backlog.upkeep.outcome("plates", "a")
    assert found is not None and (found.state, found.attempts) == ("waiting", 0)


def test_attempts_that_failed_are_not_called_timed_out_when_the_stream_allows_fewer_meanwhile(desk: Desk) -> None:
    desk.put("a")
    desk.reserve("e1#1")
    crash(desk, "e1")
    desk.backlog.settle([desk.reserve("e2#1")], Outcome(OutcomeKind.FAILED, failure=ERROR))
    desk.clock.advance(10.0)
    desk.backlog.tick()
    desk.reserve("e3#1")
    desk.backlog.declare(replace(PLATES, max_attempts=1))
    desk.backlog.engine_gone("e3#1")
    entry = desk.backlog.entry("plates", "a")
    assert entry is not None
    death = desk.store.death(entry)
    assert death is not None
    assert death.failure == Failure("AttemptsUsedUp", "Attempts that counted: 1. Its stream allows 1 now.")


@pytest.mark.parametrize("is_durable", [False, True])
def test_the_words_of_dead_letters_count_in_their_budget(tmp_path: Path, is_durable: bool) -> None:
    store = SqliteStore(tmp_path / "backlog") if is_durable else MemoryStore()
    desk, words = Desk(store), Failure("ValueError", "w" * 2_000, "é" * 4_000, retryable=False)
    desk.put("raised")
    desk.put("given up", flags=Flag.DEAD, failure=words)
    desk.put("waits")
    wait_until(lambda: len(desk.answers) == 3, what="the messages to be stored")
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.FAILED, failure=words))
    for _ in range(2):
        budget = desk.backlog.upkeep._books.budget
        assert 20_000 < budget.dead_bytes < 20_000 + 4 * ENTRY_OVERHEAD_BYTES
        assert budget.dead_bytes < budget.used_bytes < budget.dead_bytes + 2 * ENTRY_OVERHEAD_BYTES
        desk.backlog.close()
        desk = Desk(SqliteStore(tmp_path / "backlog") if is_durable else store)
    assert desk.backlog.upkeep.replay("plates", DeadChoice(("raised",))) == DeadChange(1)
    assert desk.backlog.upkeep.purge("plates", DeadChoice(("given up",))) == DeadChange(1)
    budget = desk.backlog.upkeep._books.budget
    assert (budget.dead_bytes, budget.messages) == (0, 2) and budget.used_bytes < 3 * ENTRY_OVERHEAD_BYTES
    desk.backlog.close()
