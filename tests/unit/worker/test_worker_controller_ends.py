"""When the controller gives an engine up, and when it takes one over or lets all go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benches.controller import BUSY, IDLE, IMAGES, SPECTRA, STARTING, exits, host_with, states, troubles
from harmonicio.control.messages import EngineExit
from harmonicio.core.engine import ExitReason
from harmonicio.testing.simulated_host import BOND, STEP_S, SimulatedHost
from harmonicio.worker.instructions import (
    DrainEngine,
    EngineExited,
    EngineFound,
    ForgetEngine,
    KillEngine,
    MasterMet,
    ReportNow,
    StopOrdered,
    Tick,
)

# ── a SIGTERM from outside ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("exit_code", [0, 1], ids=["in time", "at its deadline"])
def test_an_engine_that_drains_although_nobody_ordered_it_is_replaced_at_once_and_that_is_no_failure(
    exit_code: int,
) -> None:
    host = host_with(1, max_engines=1)
    drain(host, exit_code)
    (ended,) = exits(host)
    assert (ended.reason, troubles(host)) == (ExitReason.UNKNOWN, ())
    assert len(host.engines_of("images")) == 1, "its successor starts at once"


def test_an_engine_that_drains_as_soon_as_it_is_ready_is_a_failure_else_it_would_be_replaced_for_ever() -> None:
    host = host_with(1, max_engines=1)
    drain(host, 0)
    host.run(0.75)
    drain(host, 0)
    assert host.engines == {}
    assert troubles(host)[0].retry_in_s > 0


def drain(host: SimulatedHost, exit_code: int) -> None:
    """The one engine is sent a SIGTERM by somebody, says that it drains, and ends."""
    (engine,) = host.engines
    host.engines[engine].is_draining = True
    host.handle_message(engine, "m-1")
    host.end(engine, exit_code)


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


@pytest.mark.parametrize(("exit_code", "text"), [(0, ""), (1, "It ended with exit code 1 before it had finished.")])
def test_of_an_engine_that_was_ordered_to_drain_it_is_told_whether_it_had_to_give_up(exit_code: int, text: str) -> None:
    host = host_with(1)
    (engine,) = host.engines
    host.handle_message(engine, "m-1")
    host.give(StopOrdered(5.0))
    host.end(engine, exit_code)
    assert exits(host) == (EngineExit(engine, "images", ExitReason.ORDERED, text, ("m-1",)),)


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
