"""How a slow start is told, where an engine is reached, and what a failure costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harmonicio.control.messages import Desired, DesiredEngines, EngineReport, WorkerReport
from harmonicio.core.engine import Availability, ExitReason
from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.simulated_host import STEP_S, SimulatedHost
from harmonicio.worker.instructions import (
    EngineNotStarted,
    EngineStarted,
    EngineStarting,
    EngineUnwell,
    KillEngine,
    StartEngine,
    Tick,
)

IMAGE = StreamDeclaration("cells", image="lab/cells:1", version=1)
INSIDE, OUTSIDE = Address("0.0.0.0", 8712), Address("172.17.0.2", 8712)


@pytest.fixture
def host() -> SimulatedHost:
    return SimulatedHost()


def begin(host: SimulatedHost) -> str:
    """Have an engine ordered whose start goes on for as long as the test wants."""
    ordered = host.controller.handle(Desired(1, (DesiredEngines(IMAGE, 1),)), host.now)
    (start,) = [each for each in ordered if isinstance(each, StartEngine)]
    return start.engine


def reported(host: SimulatedHost) -> WorkerReport:
    return host.controller.report(1, None, host.now)


def says_it_is_idle(engine: str) -> EngineReport:
    return EngineReport(engine, "cells", 1, Availability.IDLE, 0.0, address=INSIDE)


def test_a_start_that_says_how_far_it_is_may_take_longer_than_a_silent_one(host: SimulatedHost) -> None:
    engine = begin(host)
    for seconds in range(300):
        host.now += 1
        host.controller.handle(
            EngineStarting(engine, f"Image lab/cells:1 is being pulled: {seconds} of 300 MB."), host.now
        )
        assert not [each for each in host.controller.handle(Tick(), host.now) if isinstance(each, KillEngine)]
    (trouble,) = reported(host).troubles
    assert trouble.text == "Image lab/cells:1 is being pulled: 299 of 300 MB."
    host.controller.handle(EngineStarted(engine, 17, OUTSIDE, "sha256:12"), host.now)
    assert reported(host).troubles == ()


def test_an_engine_is_named_only_where_it_can_be_reached_however_early_it_speaks(host: SimulatedHost) -> None:
    engine = begin(host)
    host.controller.handle(says_it_is_idle(engine), host.now)
    assert reported(host).engines[0].state is Availability.STARTING
    host.controller.handle(EngineStarted(engine, 17, OUTSIDE, "sha256:12"), host.now)
    known = reported(host).engines[0]
    assert (known.state, known.address, known.pid, known.image) == (Availability.IDLE, OUTSIDE, 17, "sha256:12")


def test_whether_an_engine_speaks_tls_is_its_own_word_also_where_its_runtime_says_where_it_is(
    host: SimulatedHost,
) -> None:
    engine = begin(host)
    host.controller.handle(EngineStarted(engine, 17, OUTSIDE), host.now)
    report = replace(says_it_is_idle(engine), address=replace(INSIDE, speaks_tls=True))
    host.controller.handle(report, host.now)
    assert reported(host).engines[0].address == replace(OUTSIDE, speaks_tls=True)


def test_an_engine_that_was_ordered_to_end_before_it_had_started_has_not_failed(host: SimulatedHost) -> None:
    engine = begin(host)
    host.controller.handle(Desired(2, ()), host.now)
    host.controller.handle(EngineNotStarted(engine, "It was ended before it had started."), host.now)
    assert reported(host).exits[0].reason is ExitReason.ORDERED


def test_an_engine_that_is_not_well_is_killed_and_its_place_stays_empty_until_the_back_off_is_over(
    host: SimulatedHost,
) -> None:
    host.want((IMAGE, 1))
    host.run(1)
    (engine,) = host.engines
    host.is_unkillable = True  # Its end takes a while, as that of a container does.
    host.give(EngineUnwell(engine, "The health check of its image failed: no GPU"))
    assert [each.engine for each in host.orders(KillEngine)] == [engine]
    assert list(host.engines) == [engine]
    assert "no GPU" in reported(host).troubles[0].text
    host.give(EngineUnwell(engine, "The health check of its image failed: no GPU"))
    assert len(host.orders(KillEngine)) == 1
    host.end(engine, -9)
    ended = reported(host).exits[0]
    assert (ended.reason, ended.text) == (ExitReason.UNKNOWN, "The health check of its image failed: no GPU")
    host.run(STEP_S)
    assert list(host.engines) == []
    host.run(1)
    assert len(host.engines) == 1
