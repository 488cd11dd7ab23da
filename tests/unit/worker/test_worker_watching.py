"""Which message an engine is killed for, and which one its end is charged to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harmonicio.control import json_codec
from harmonicio.control.messages import EngineExit, EngineReport, RunningMessage
from harmonicio.core.engine import Availability, ExitReason
from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.simulated_host import STEP_S, SimulatedHost
from harmonicio.worker.instructions import EngineExited, HandlersSeen, KillEngine

SHORT = StreamDeclaration("short", handler="short.py", timeout_s=2.0, version=1)
LONG = replace(SHORT, name="long", timeout_s=600.0)


def host_with(declaration: StreamDeclaration, seconds: float = 2) -> tuple[SimulatedHost, str]:
    """Return a host with one engine; after 0.5 s it is ready."""
    host = SimulatedHost()
    host.want((declaration, 1))
    host.run(seconds)
    (engine,) = host.engines
    return host, engine


def last_exit(host: SimulatedHost) -> EngineExit:
    return host.controller.report(1, None, host.now).exits[-1]


def test_a_message_that_has_made_room_for_the_next_is_not_counted_on() -> None:
    host, engine = host_with(SHORT)
    for number in range(5):
        host.handle_message(engine, f"m-{number}")
        host.run(1.75)
        # The next one begins at once; what was reported last is 0.2 s old when the limit of the first would be over.
        del host.engines[engine].running_since[f"m-{number}"]
        host.now += 0.3
        host.engines[engine].is_frozen = True
        host.run(0.25)
        host.engines[engine].is_frozen = False
    assert host.orders(KillEngine) == []


def test_a_handler_that_silences_its_engine_is_killed_when_its_message_has_had_its_time() -> None:
    host, engine = host_with(SHORT)
    host.engines[engine].is_frozen = True
    for quarters in range(10):
        host.give(HandlersSeen(engine, (RunningMessage("m-1", quarters / 4),)))
        host.run(0.25)
    ended = last_exit(host)
    assert (ended.reason, ended.held) == (ExitReason.TIMED_OUT, ("m-1",))


def test_a_handler_may_silence_its_engine_for_as_long_as_its_message_may_run() -> None:
    host, engine = host_with(LONG)
    host.engines[engine].is_frozen = True
    for seconds in range(100):
        host.give(HandlersSeen(engine, (RunningMessage("m-1", float(seconds)),)))
        host.run(1)
    assert host.orders(KillEngine) == []
    host.give(HandlersSeen(engine, ()))
    host.run(1)
    assert last_exit(host).reason is ExitReason.UNKNOWN


# ── what is kept after its handler has returned ──────────────────────────────────────────────────────────────────────


def kept(message: str, running_s: float) -> RunningMessage:
    return RunningMessage(message, running_s, has_returned=True)


def test_keeping_a_message_for_too_long_ends_its_engine_and_is_charged_to_nobody() -> None:
    host, engine = host_with(SHORT)
    host.give(HandlersSeen(engine, (kept("m-1", 30.0),)))
    host.run(STEP_S)
    assert host.orders(KillEngine) == [], "timeout_s is a handler's number"
    host.give(HandlersSeen(engine, (kept("m-1", 30.25),)))
    host.run(STEP_S)
    ended = last_exit(host)
    assert (ended.reason, ended.held) == (ExitReason.TIMED_OUT, ())
    assert ended.text == (
        "Message m-1 was handled, but storing it, or what it emitted, took longer than 30 s. "
        "See that tiers and feature database answer."
    )


def test_a_stream_whose_store_hangs_is_not_given_engines_as_fast_as_they_can_be_killed() -> None:
    host, _ = host_with(SHORT)
    killed_at = []
    while len(killed_at) < 4:
        for engine in host.engines_of("short", Availability.IDLE):
            host.give(HandlersSeen(engine, (kept("m-1", 31.0),)))
            killed_at.append(host.now)
        host.run(STEP_S)
    assert killed_at[3] - killed_at[2] > 1.0
    (trouble,) = host.controller.report(1, None, host.now).troubles
    assert "storing it" in trouble.text


def test_what_is_kept_has_as_long_as_a_handler_where_that_is_more() -> None:
    host, engine = host_with(LONG)
    host.give(HandlersSeen(engine, (kept("m-1", 600.0),)))
    host.run(STEP_S)
    assert host.orders(KillEngine) == []
    host.give(HandlersSeen(engine, (kept("m-1", 601.0),)))
    host.run(STEP_S)
    assert last_exit(host).held == ()


def test_beside_a_message_whose_handler_runs_for_too_long_one_that_is_kept_for_too_long_is_not_charged() -> None:
    host, engine = host_with(SHORT)
    seen = kept("m-kept", 39.0), RunningMessage("m-slow", 3.0), RunningMessage("m-young", 1.0)
    host.give(HandlersSeen(engine, seen))
    host.run(STEP_S)
    ended = last_exit(host)
    assert (ended.reason, ended.held) == (ExitReason.TIMED_OUT, ("m-slow",))
    assert ended.text == "Message m-slow ran for longer than 2 s."


def test_what_is_kept_for_too_long_is_not_charged_to_what_runs_beside_it() -> None:
    host, engine = host_with(SHORT)
    host.give(HandlersSeen(engine, (RunningMessage("m-young", 1.0), kept("m-kept", 39.0))))
    host.run(STEP_S)
    assert (last_exit(host).reason, last_exit(host).held) == (ExitReason.TIMED_OUT, ())


def test_an_engine_without_a_board_says_itself_what_is_being_kept() -> None:
    host, engine = host_with(SHORT)
    host.engines[engine].is_frozen = True
    host.give(
        EngineReport(
            engine, "short", 1, Availability.BUSY, 0.0, Address("127.0.0.1", 4000), running=(kept("m-1", 29.0),)
        )
    )
    (told,) = host.controller.report(1, None, host.now).engines
    assert told.running == (kept("m-1", 29.0),)
    host.run(2)
    assert (last_exit(host).reason, last_exit(host).held) == (ExitReason.TIMED_OUT, ())


def test_an_engine_that_ends_by_itself_while_it_keeps_its_only_message_has_crashed_of_it() -> None:
    host, engine = host_with(SHORT)
    host.engines.pop(engine)
    host.give(HandlersSeen(engine, (kept("m-1", 0.5),)))
    host.give(EngineExited(engine, -11))
    assert (last_exit(host).reason, last_exit(host).held) == (ExitReason.CRASHED, ("m-1",))


# ── how it ended ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("exit_code", [3, 0, -9])
def test_a_message_that_ends_its_engine_before_that_said_it_was_ready_is_a_crash(exit_code: int) -> None:
    host, engine = host_with(SHORT, 0.25)
    host.engines.pop(engine)
    host.give(HandlersSeen(engine, (RunningMessage("m-1", 0.0),)))
    host.give(EngineExited(engine, exit_code))
    assert (last_exit(host).reason, last_exit(host).held) == (ExitReason.CRASHED, ("m-1",))


def test_an_engine_that_leaves_with_code_0_while_it_serves_has_crashed() -> None:
    host, engine = host_with(SHORT)
    host.handle_message(engine, "m-1")
    host.end(engine, 0)
    assert (last_exit(host).reason, last_exit(host).held) == (ExitReason.CRASHED, ("m-1",))


def test_what_a_board_says_of_an_engine_that_nobody_knows_is_ignored() -> None:
    host, engine = host_with(SHORT)
    assert host.give(HandlersSeen("e-unknown", (RunningMessage("m-1", 99.0),))) == []
    assert host.engines_of("short", Availability.IDLE) == [engine]


def test_nothing_that_an_engine_says_makes_a_report_long() -> None:
    host, engine = host_with(SHORT)
    said = tuple(RunningMessage(name, 0.0) for name in ("x" * 100_000, "m-1", "two\nlines", *map(str, range(1000))))
    host.give(
        EngineReport(
            engine,
            "short",
            1,
            Availability.BUSY,
            0.0,
            Address("h" * 100_000, 1),
            10**999,
            said,
            10**999,
            image="i" * 10**6,
        )
    )
    (told,) = host.controller.report(1, None, host.now).engines
    assert [each.message for each in told.running] == ["m-1"]
    assert told.address is None
    assert len(json_codec.dumps(told)) < 1000
