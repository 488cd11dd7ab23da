"""What the controller decides, on a host without processes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from harmonicio.control.messages import EngineExit, StreamTrouble
from harmonicio.core.engine import Availability, ExitReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.simulated_host import BOND, STEP_S, SimulatedHost
from harmonicio.worker.instructions import (
    DrainEngine,
    EngineExited,
    EngineFound,
    ExitsAcknowledged,
    ForgetEngine,
    KillEngine,
    MasterMet,
    ReportNow,
    StartEngine,
    StopOrdered,
    Tick,
)

IMAGES = StreamDeclaration("images", handler="images.py", timeout_s=20.0, concurrency=4, version=1)
SPECTRA = StreamDeclaration("spectra", handler="spectra.py", timeout_s=600.0, version=7)
IDLE, BUSY, STARTING, DRAINING = Availability.IDLE, Availability.BUSY, Availability.STARTING, Availability.DRAINING


def host_with(count: int, declaration: StreamDeclaration = IMAGES, *, max_engines: int = 4) -> SimulatedHost:
    """Return a host on which ``count`` engines are idle."""
    host = SimulatedHost(max_engines=max_engines)
    host.want((declaration, count))
    host.run(2)
    assert len(host.engines_of(declaration.name, IDLE)) == count
    return host


def exits(host: SimulatedHost) -> tuple[EngineExit, ...]:
    return host.controller.report(1, None, host.now).exits


def troubles(host: SimulatedHost) -> tuple[StreamTrouble, ...]:
    return host.controller.report(1, None, host.now).troubles


def states(host: SimulatedHost) -> list[Availability]:
    return [each.state for each in host.controller.report(1, None, host.now).engines]


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_happens_before_the_master_has_said_what_it_wants() -> None:
    host = SimulatedHost()
    host.run(100)
    assert host.history == []
    assert host.controller.engines == ()


def test_wanted_engines_are_started_at_once_and_the_master_hears_of_it() -> None:
    host = SimulatedHost(max_engines=8)
    instructions = host.want((IMAGES, 3), (SPECTRA, 2))
    assert [type(each) for each in instructions] == [StartEngine] * 5 + [ReportNow]
    host.run(2)
    assert len(host.engines_of("images", IDLE)) == 3
    assert len(host.engines_of("spectra", IDLE)) == 2
    assert len(host.started) == 5


def test_a_worker_never_runs_more_engines_than_it_may() -> None:
    host = SimulatedHost(max_engines=2)
    host.want((IMAGES, 5))
    host.run(5)
    assert len(host.engines) == 2
    assert troubles(host) == (StreamTrouble("images", "All 2 places for engines are taken.", 0.0),)


def test_engines_that_still_drain_keep_their_places() -> None:
    host = host_with(2, max_engines=2)
    for engine in list(host.engines):
        host.handle_message(engine, f"m-{engine}")
    host.want((SPECTRA, 2))
    host.run(3)
    assert len(host.engines_of("images", DRAINING)) == 2
    assert host.engines_of("spectra") == []
    for engine in list(host.engines):
        host.finish_message(engine, f"m-{engine}")
    host.run(3)
    assert len(host.engines_of("spectra", IDLE)) == 2


def test_scaling_down_drains_idle_engines_first() -> None:
    host = host_with(3)
    busy = list(host.engines)[1]
    host.handle_message(busy, "m-1")
    host.want((IMAGES, 1))
    host.run(2)
    assert list(host.engines) == [busy]
    assert [each.reason for each in exits(host)] == [ExitReason.ORDERED] * 2
    assert troubles(host) == ()


def test_a_stream_that_is_not_wanted_any_more_loses_its_engines() -> None:
    host = host_with(2)
    host.want()
    host.run(2)
    assert host.engines == {}


def test_an_engine_that_does_not_drain_in_time_is_killed() -> None:
    host = host_with(1)
    (engine,) = host.engines
    host.is_deaf = True
    host.want()
    assert host.orders(DrainEngine) == [DrainEngine(engine, IMAGES.timeout_s)]
    host.run(IMAGES.timeout_s - STEP_S)
    assert list(host.engines) == [engine]
    host.run(STEP_S)
    assert host.engines == {}
    assert exits(host)[0].reason is ExitReason.ORDERED


def test_a_draining_engine_that_falls_silent_is_killed_before_its_deadline() -> None:
    host = host_with(1, SPECTRA)
    (engine,) = host.engines
    host.engines[engine].is_frozen = True
    host.want()
    host.run(10 + STEP_S)
    assert host.engines == {}
    assert exits(host)[0].reason is ExitReason.ORDERED


def test_an_order_that_got_lost_is_repeated() -> None:
    host = host_with(1)
    host.is_deaf = True
    host.want()
    host.run(0.5)
    host.is_deaf = False
    host.run(2)
    assert host.engines == {}
    assert len(host.orders(KillEngine)) == 0


def test_an_engine_that_drains_by_itself_is_replaced() -> None:
    host = host_with(1)
    (engine,) = host.engines
    host.handle_message(engine, "m-1")
    host.engines[engine].is_draining = True
    host.run(2)
    assert len(host.engines_of("images", IDLE)) == 1
    host.finish_message(engine, "m-1")
    host.run(2)
    assert engine not in host.engines
    (ended,) = exits(host)
    assert (ended.reason, ended.text) == (ExitReason.UNKNOWN, "It ended by itself with exit code 0.")


# ── new declarations ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_declaration_replaces_engines_one_after_another() -> None:
    host = host_with(3)
    new = replace(IMAGES, version=2)
    host.want((new, 3))
    for _ in range(40):
        host.run(STEP_S)
        able = [each for each in host.engines.values() if each.is_ready and not each.is_draining]
        assert len(able) >= 3
        assert len(host.engines) <= 4
    assert [each.declaration.version for each in host.engines.values()] == [2, 2, 2]
    assert troubles(host) == ()


def test_on_a_full_worker_the_old_engine_goes_first() -> None:
    host = host_with(2, max_engines=2)
    host.want((replace(IMAGES, version=2), 2))
    for _ in range(40):
        host.run(STEP_S)
        assert len([each for each in host.engines.values() if each.is_ready and not each.is_draining]) >= 1
    assert [each.declaration.version for each in host.engines.values()] == [2, 2]


def test_scaling_restarts_no_engine() -> None:
    host = host_with(1)
    before = set(host.engines)
    host.want((replace(IMAGES, engines=3), 3))
    host.run(2)
    assert before < set(host.engines)
    assert len(host.started) == 3


def test_a_new_declaration_that_does_not_work_leaves_the_old_engines_alone() -> None:
    host = host_with(2)
    before = set(host.engines)
    host.broken_streams.add("images")
    host.want((replace(IMAGES, version=2), 2))
    host.run(60)
    assert before <= set(host.engines)
    assert host.orders(DrainEngine) == []
    assert "No module named 'counting'" in troubles(host)[0].text


def test_an_ordered_stream_never_has_two_engines() -> None:
    ordered = replace(IMAGES, ordered=True, concurrency=1)
    host = host_with(1, ordered)
    (engine,) = host.engines
    host.handle_message(engine, "m-1")
    host.want((replace(ordered, version=2), 1))
    host.run(5)
    assert list(host.engines) == [engine]
    host.finish_message(engine, "m-1")
    for _ in range(20):
        host.run(STEP_S)
        assert len(host.engines) <= 1
    assert [each.declaration.version for each in host.engines.values()] == [2]


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_crashed_engine_is_replaced_and_what_it_held_is_told() -> None:
    host = host_with(2)
    engine = next(iter(host.engines))
    host.handle_message(engine, "m-1")
    host.end(engine, -11, "Fatal Python error: Segmentation fault")
    host.run(3)
    assert len(host.engines_of("images", IDLE)) == 2
    text = "It ended by signal 11. Fatal Python error: Segmentation fault"
    assert exits(host) == (EngineExit(engine, "images", ExitReason.CRASHED, text, ("m-1",)),)
    assert host.orders(ForgetEngine) == [ForgetEngine(exits(host)[0])]


def test_an_exit_is_told_until_the_master_has_answered() -> None:
    host = host_with(2)
    for engine in list(host.engines):
        host.end(engine, 1)
    first, second = exits(host)
    assert exits(host) == (first, second)
    host.give(ExitsAcknowledged((first.engine,)))
    assert exits(host) == (second,)
    host.give(ExitsAcknowledged((first.engine, "e-unknown")))
    assert exits(host) == (second,)


def test_a_handler_that_cannot_be_loaded_is_tried_again_more_and_more_seldom() -> None:
    host = SimulatedHost()
    host.broken_streams.add("images")
    host.want((IMAGES, 1))
    host.run(300)
    times = [at for at, _ in host.started]
    delays = [later - earlier for earlier, later in pairwise(times)]
    assert len(delays) >= 10
    for number, delay_s in enumerate(delays):
        longest_s = min(30.0, 0.5 * 2**number)
        assert 0.5 * longest_s <= delay_s <= longest_s + 2 * STEP_S
    assert {each.reason for each in exits(host)} == {ExitReason.FAILED_TO_START}
    (trouble,) = troubles(host)
    assert trouble.stream == "images"
    assert trouble.text.endswith(
        "It ended with exit code 3 before it was ready. ModuleNotFoundError: No module named 'counting'"
    )
    assert 0 < trouble.retry_in_s <= 30


def test_engines_that_cannot_be_started_are_backed_off_too() -> None:
    host = SimulatedHost()
    host.missing_streams.add("images")
    host.want((IMAGES, 4))
    host.run(60)
    assert len(host.started) < 4 + 9
    assert exits(host)[0].text == "It could not be started. There is no such image."


def test_four_engines_that_fail_together_are_one_failure() -> None:
    host = SimulatedHost()
    host.broken_streams.add("images")
    host.want((IMAGES, 4))
    host.run(STEP_S)
    assert len(host.started) == 4
    assert troubles(host)[0].retry_in_s <= 0.5
    host.run(0.75)
    assert len(host.started) == 5  # From now on one at a time.


def test_trouble_of_one_stream_holds_no_other_up() -> None:
    host = SimulatedHost()
    host.broken_streams.add("images")
    host.want((IMAGES, 2), (SPECTRA, 2))
    host.run(30)
    assert len(host.engines_of("spectra", IDLE)) == 2


def test_trouble_ends_when_the_engines_are_there() -> None:
    host = SimulatedHost()
    host.broken_streams.add("images")
    host.want((IMAGES, 2))
    host.run(20)
    host.broken_streams.clear()
    host.run(32)
    assert len(host.engines_of("images", IDLE)) == 2
    assert troubles(host) == ()


def test_a_long_life_makes_the_next_failure_the_first_again() -> None:
    host = SimulatedHost()
    host.broken_streams.add("images")
    host.want((IMAGES, 1))
    host.run(60)
    host.broken_streams.clear()
    host.run(60)
    host.end(host.engines_of("images")[0], -9)
    assert troubles(host)[0].retry_in_s <= 0.5


def test_a_neighbour_that_lives_long_does_not_hide_an_engine_that_keeps_crashing() -> None:
    host = host_with(2)
    healthy = next(iter(host.engines))
    host.run(100)
    waits_s = []
    for _ in range(8):
        for engine in host.engines_of("images"):
            if engine != healthy:
                host.end(engine, -11)
        waits_s.append(troubles(host)[0].retry_in_s)
        host.run(20)
    assert len(host.started) <= 10
    assert max(waits_s) > 10


def test_a_new_declaration_is_tried_at_once_although_the_old_one_failed() -> None:
    host = SimulatedHost()
    host.broken_streams.add("images")
    host.want((IMAGES, 1))
    host.run(100)
    host.broken_streams.clear()
    count = len(host.started)
    host.want((replace(IMAGES, handler="better.py", version=2), 1))
    assert len(host.started) == count + 1


# ── time-outs and silence ────────────────────────────────────────────────────────────────────────────────────────────


def test_an_engine_whose_message_runs_too_long_is_killed_and_replaced_at_once() -> None:
    host = host_with(1)
    (engine,) = host.engines
    host.handle_message(engine, "m-slow")
    host.run(15)
    host.handle_message(engine, "m-young")
    host.run(5)
    assert engine in host.engines
    host.run(STEP_S)
    assert engine not in host.engines
    (ended,) = exits(host)
    assert ended == EngineExit(
        engine, "images", ExitReason.TIMED_OUT, "Message m-slow ran for longer than 20 s.", ("m-slow",)
    )
    host.run(1)
    assert len(host.engines_of("images", IDLE)) == 1


def test_a_frozen_engine_is_killed_when_its_message_has_had_its_time() -> None:
    host = host_with(1)
    (engine,) = host.engines
    host.handle_message(engine, "m-1")
    host.engines[engine].is_frozen = True
    host.run(20)
    assert engine in host.engines
    reported = host.controller.report(1, None, host.now).engines[0]
    assert reported.state is BUSY
    assert reported.running[0].running_s == pytest.approx(20.0)
    host.run(STEP_S)
    assert exits(host)[0].reason is ExitReason.TIMED_OUT
    assert exits(host)[0].held == ("m-1",)


def test_a_message_that_runs_too_long_in_a_draining_engine_times_out_as_well() -> None:
    host = host_with(1, SPECTRA)
    (engine,) = host.engines
    host.handle_message(engine, "m-1")
    host.run(100)
    host.want()
    host.run(501)
    assert exits(host)[0].reason is ExitReason.TIMED_OUT


def test_an_idle_engine_that_says_nothing_is_killed_and_replaced() -> None:
    host = host_with(1)
    (engine,) = host.engines
    host.engines[engine].is_frozen = True
    host.run(10)
    assert engine in host.engines
    host.run(STEP_S)
    assert engine not in host.engines
    assert (exits(host)[0].reason, exits(host)[0].held) == (ExitReason.UNKNOWN, ())
    host.run(2)
    assert len(host.engines_of("images", IDLE)) == 1


def test_an_engine_that_never_gets_ready_is_given_up_after_a_minute() -> None:
    host = SimulatedHost()
    host.want((IMAGES, 1))
    (engine,) = host.engines
    host.engines[engine].is_frozen = True
    host.run(60)
    assert engine in host.engines
    host.run(STEP_S)
    assert exits(host)[0].reason is ExitReason.FAILED_TO_START
    assert exits(host)[0].text == "Nothing was heard of it for 60 s."


def test_a_long_setup_is_fine_as_long_as_the_engine_says_so() -> None:
    host = SimulatedHost(start_s=300)
    host.want((IMAGES, 1))
    host.run(290)
    assert states(host) == [STARTING]
    host.run(15)
    assert states(host) == [IDLE]


def test_a_kill_without_effect_is_repeated() -> None:
    host = host_with(1)
    host.is_unkillable = True
    (engine,) = host.engines
    host.handle_message(engine, "m-1")
    host.run(40)
    assert 3 <= len(host.orders(KillEngine)) <= 5
    host.end(engine, -9)
    assert exits(host)[0].held == ("m-1",)


def test_a_pause_of_the_controller_itself_costs_no_engine() -> None:
    host = host_with(2)
    busy = next(iter(host.engines))
    host.handle_message(busy, "m-1")
    host.engines[busy].running_since.clear()  # It finishes during the pause.
    host.now += 3600
    host.give(Tick())
    host.run(2)
    assert host.orders(KillEngine) == []
    assert states(host) == [IDLE, IDLE]


# ── adoption and stopping ────────────────────────────────────────────────────────────────────────────────────────────


def test_engines_of_an_earlier_controller_are_kept_and_return_when_they_report() -> None:
    host = host_with(2)
    later = SimulatedHost()
    later.now = host.now
    for each in host.engines.values():
        later.engines[each.engine] = each
        later.give(EngineFound(each.engine, IMAGES, 17, is_running=True, bond=BOND))
    assert states(later) == [STARTING, STARTING]
    later.want((IMAGES, 2))
    later.run(1)
    assert states(later) == [IDLE, IDLE]
    assert later.started == []
    assert later.orders(DrainEngine) == []


def test_too_many_adopted_engines_are_scaled_down_and_old_ones_replaced() -> None:
    later = SimulatedHost()
    before = host_with(4)
    for each in before.engines.values():
        later.engines[each.engine] = each
        later.give(EngineFound(each.engine, IMAGES, 17, is_running=True, bond=BOND))
    later.want((replace(IMAGES, version=2), 2))
    later.run(20)
    assert [each.declaration.version for each in later.engines.values()] == [2, 2]


def test_engines_that_belong_to_another_master_are_replaced_one_after_another() -> None:
    host = host_with(2)
    before = set(host.engines)
    host.give(MasterMet("another"))
    for _ in range(40):
        host.run(STEP_S)
        assert len([each for each in host.engines.values() if each.is_ready and not each.is_draining]) >= 2
    assert before.isdisjoint(host.engines)
    assert len(host.engines) == 2


def test_the_same_master_again_changes_nothing() -> None:
    host = host_with(2)
    host.give(MasterMet(BOND))
    host.run(5)
    assert len(host.started) == 2
    assert len(host.engines) == 2


def test_an_engine_in_a_long_setup_is_ended_by_the_runtime() -> None:
    host = SimulatedHost(start_s=300)
    host.want((IMAGES, 1))
    host.run(100)
    host.want()
    assert host.orders(DrainEngine) == [DrainEngine("e-00000001", IMAGES.timeout_s, is_starting=True)]


def test_an_engine_that_ended_while_no_controller_was_there_is_told() -> None:
    host = SimulatedHost()
    instructions = host.give(EngineFound("e-old", IMAGES, 17, is_running=False, text="Killed"))
    assert ForgetEngine(exits(host)[0]) in instructions
    assert exits(host) == (
        EngineExit("e-old", "images", ExitReason.UNKNOWN, "It ended by itself with an unknown exit code. Killed"),
    )


def test_stopping_drains_every_engine_and_starts_none() -> None:
    host = host_with(3)
    busy, *_ = host.engines
    host.handle_message(busy, "m-1")
    host.give(StopOrdered(5.0))
    host.want((IMAGES, 4))
    host.run(2)
    assert list(host.engines) == [busy]
    host.run(3)
    assert host.engines == {}
    assert len(host.started) == 3
    assert {each.reason for each in exits(host)} == {ExitReason.ORDERED}


def test_stopping_without_patience_kills_at_once() -> None:
    host = host_with(2)
    host.give(StopOrdered(0.0))
    assert host.engines == {}


def test_an_exit_of_an_unknown_engine_means_nothing() -> None:
    host = host_with(1)
    assert host.give(EngineExited("e-unknown", 1)) == []
    assert exits(host) == ()


def test_flips_of_idle_and_busy_are_less_urgent_than_engines_that_come_and_go() -> None:
    host = host_with(1)
    (engine,) = host.engines
    host.history.clear()
    host.handle_message(engine, "m-1")
    assert host.history == [(host.now, ReportNow(0.2))]
    host.handle_message(engine, "m-2")
    assert len(host.history) == 1  # Busy it was before.
    host.end(engine, 1)
    assert host.history[-1] == (host.now, ReportNow(0.05))
