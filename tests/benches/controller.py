"""A simulated host with engines of two streams, and what its controller tells the master."""

from __future__ import annotations

from harmonicio.control.messages import EngineExit, StreamTrouble
from harmonicio.core.engine import Availability
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.simulated_host import SimulatedHost

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
