"""The backlog: who listens, streams that come and go, restarts, many threads."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from benches.backlog import DONE, ERROR, FATAL, PLATES, STORED, Desk, message, reserve_one
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.backlog import Backlog
from harmonicio.master.backlog.memory import MemoryStore
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.testing.clock import ManualClock
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.frames import Flag

# ── listeners and subscribers ────────────────────────────────────────────────────────────────────────────────────────


def test_listeners_hear_of_every_change_and_may_use_the_backlog(desk: Desk) -> None:
    seen: list[int] = []
    desk.backlog.set_listeners(on_change=lambda stream: seen.append(desk.backlog.depth(stream)))
    desk.put("a")
    wait_until(lambda: seen == [1], what="the listener to see the message")
    reservation = desk.reserve()
    wait_until(lambda: seen[-1] == 0, what="the listener to see the reservation")
    desk.backlog.settle([reservation], Outcome(OutcomeKind.FAILED, failure=ERROR))
    desk.clock.advance(1.0)
    desk.backlog.tick()
    wait_until(lambda: seen[-1] == 1, what="the listener to see the next attempt")
    desk.reserve("e1")
    desk.backlog.engine_gone("e1")
    wait_until(lambda: seen[-1] == 1, what="the listener to see what came back")


def test_a_listener_that_fails_is_called_again(desk: Desk) -> None:
    calls: list[str] = []

    def on_change(stream: str) -> None:
        calls.append(stream)
        raise ValueError("a bug")

    desk.backlog.set_listeners(on_change=on_change)
    for count, message_id in enumerate("ab", start=1):
        desk.put(message_id)
        wait_until(lambda count=count: len(calls) == count, what="the listener")


def test_who_subscribes_late_hears_at_once(desk: Desk) -> None:
    for message_id in "ab":
        desk.put(message_id)
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.DONE, result="3 cells"))
    desk.backlog.settle([desk.reserve()], Outcome(OutcomeKind.FAILED, failure=FATAL))
    for message_id in "abc":
        desk.subscribe(message_id)
    assert desk.finals == [
        ("a", Outcome(OutcomeKind.DONE, result="3 cells")),
        ("b", Outcome(OutcomeKind.FAILED, failure=FATAL)),
        ("c", None),
    ]


def test_who_unsubscribes_hears_nothing(desk: Desk) -> None:
    desk.put("a")
    desk.subscribe("a")
    desk.backlog.unsubscribe("plates", {"a", "b"}, desk.final)
    desk.backlog.settle([desk.reserve()], DONE)
    assert desk.finals == []


def test_an_outcome_is_known_for_an_hour_and_that_it_was_done_for_a_day(desk: Desk) -> None:
    desk.put("a")
    desk.backlog.settle([desk.reserve()], DONE)
    found = desk.backlog.upkeep.outcome("plates", "a")
    assert found is not None and (found.state, found.attempts) == ("done", 1)
    desk.store.prune(time.time() + 3_700)
    found = desk.backlog.upkeep.outcome("plates", "a")
    assert found is not None and (found.state, found.attempts) == ("done", 0)
    desk.subscribe("a")
    assert desk.finals == [("a", None)]
    assert desk.state("never seen") is None


@pytest.mark.parametrize("jumps_s", [[100 * 3_600.0], [-3_600.0, 3_600.0], [100 * 3_600.0, -100 * 3_600.0]])
def test_a_wall_clock_that_is_set_makes_nothing_older(jumps_s: list[float]) -> None:
    clock = ManualClock()
    desk = Desk(MemoryStore(clock=clock), clock=clock)
    for number, jump_s in enumerate(jumps_s):
        desk.put(f"before {number}")
        desk.backlog.settle([desk.reserve()], DONE)
        clock.set_wall(jump_s)
        clock.advance(1.0)
        desk.backlog.tick()
        clock.advance(600.0)
        desk.backlog.tick()
    for number in range(len(jumps_s)):
        desk.subscribe(f"before {number}")
        assert desk.finals[-1] == (f"before {number}", DONE)
        desk.put(f"before {number}", b"other bytes")
        assert desk.answers[-1].reason is RejectReason.ID_CONFLICT
    desk.backlog.close()


def test_what_is_old_is_forgotten_although_the_wall_clock_was_set_forward_in_between() -> None:
    clock = ManualClock()
    desk = Desk(MemoryStore(clock=clock), clock=clock)
    desk.put("a")
    desk.backlog.settle([desk.reserve()], DONE)
    clock.set_wall(100 * 3_600.0)
    for _ in range(2):
        clock.advance(3_599.0)
        desk.backlog.tick()
    desk.subscribe("a")
    assert desk.finals == [("a", None)]
    desk.backlog.close()


# ── streams, restarts, many threads ──────────────────────────────────────────────────────────────────────────────────


def test_everything_is_there_again_after_a_restart(tmp_path: Path) -> None:
    first = Desk(SqliteStore(tmp_path))
    for message_id in "abcd":
        first.put(message_id, message_id.encode() * 100_000)
    first.put("gone", b"x", flags=int(Flag.DEAD), failure=FATAL)
    wait_until(lambda: len(first.answers) == 5, what="everything to be stored")
    first.backlog.settle([first.reserve()], DONE)
    first.backlog.settle([first.reserve()], Outcome(OutcomeKind.FAILED, failure=ERROR))
    first.reserve()
    first.backlog.close()

    second = Desk(SqliteStore(tmp_path))
    figures = second.backlog.figures("plates")
    assert (figures.ready, figures.reserved, figures.dead) == (3, 0, 1)
    assert [second.state(message_id) for message_id in ("a", "b", "gone")] == ["done", "waiting", "dead"]
    for message_id, attempts in (("b", 1), ("c", 0), ("d", 0)):
        reservation = second.reserve()
        assert (reservation.entry.message_id, reservation.entry.attempts) == (message_id, attempts)
        assert reservation.entry.section == b"\x80"
        with second.backlog.open_payload(reservation) as payload:
            assert bytes(payload.view) == message_id.encode() * 100_000
    second.put("a", b"a" * 100_000)
    second.put("new", b"x")
    wait_until(lambda: len(second.answers) == 2, what="the new message to be stored")
    assert second.answers == [STORED, STORED]
    assert second.backlog.figures("plates").ready == 1
    second.backlog.close()


def test_large_payloads_arrive_in_files_and_so_do_those_that_memory_has_no_room_for(tmp_path: Path) -> None:
    backlog = Backlog(SqliteStore(tmp_path), arriving_memory_bytes=250_000)
    backlog.declare(StreamDeclaration("plates", handler="/h.py", memory_payload_max_bytes=200_000))
    arrivals = [backlog.new_payload("plates", size_bytes) for size_bytes in (200_001, 150_000, 150_000, 100)]
    assert [arrival.is_on_disk for arrival in arrivals] == [True, False, True, False]
    for arrival in arrivals:
        arrival.discard()
    again = backlog.new_payload("plates", 150_000)
    assert not again.is_on_disk
    again.discard()
    backlog.close()
    assert not list(tmp_path.glob("payloads/*/*"))


def test_many_threads_put_and_take_and_each_message_is_processed_once(tmp_path: Path) -> None:
    backlog = Backlog(SqliteStore(tmp_path))
    backlog.declare(PLATES)
    sources, engines, each_puts = 4, 3, 150
    answers: list[Outcome] = []
    taken: list[str] = []
    is_over = threading.Event()

    def put(source: int) -> None:
        for number in range(each_puts):
            payload = bytes([number]) * (70_000 if number % 10 == 0 else 50)
            backlog.put("plates", message(f"{source}/{number}", payload), None, answers.append)

    def take(engine: str) -> None:
        while not is_over.is_set():
            reservation = reserve_one(backlog, "plates", engine, time.monotonic())
            if reservation is None:
                is_over.wait(0.001)
                continue
            with backlog.open_payload(reservation) as payload:
                assert set(bytes(payload.view)) == {int(reservation.entry.message_id.split("/")[1])}
            backlog.settle([reservation], DONE)
            taken.append(reservation.entry.message_id)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(sources)]
    threads += [threading.Thread(target=take, args=(f"e{number}",)) for number in range(engines)]
    for thread in threads:
        thread.start()
    wait_until(
        lambda: backlog.figures("plates").done_total == sources * each_puts, timeout_s=30, what="all to be processed"
    )
    is_over.set()
    for thread in threads:
        thread.join()
    assert len(answers) == len(taken) == len(set(taken)) == sources * each_puts
    assert all(answer == STORED for answer in answers)
    figures = backlog.figures("plates")
    assert (figures.ready, figures.reserved, figures.dead, figures.waiting_bytes) == (0, 0, 0, 0)
    backlog.close()
    assert not list(tmp_path.glob("payloads/*/*"))
