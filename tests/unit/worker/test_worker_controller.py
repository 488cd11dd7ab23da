"""What the controller decides, on a host without processes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from benches.controller import DRAINING, IDLE, IMAGES, SPECTRA, exits, host_with, troubles
from harmonicio.control.messages import EngineExit, StreamTrouble
from harmonicio.core.engine import ExitReason
from harmonicio.testing.simulated_host import STEP_S, SimulatedHost
from harmonicio.worker.instructions import (
    DrainEngine,
    ExitsAcknowledged,
    ForgetEngine,
    KillEngine,
    ReportNow,
    StartEngine,
)

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
