"""A worker's host: the real :class:`~harmonicio.worker.service.WorkerService` with engines as processes of ours.

Ours are only: folders, the runtime (which starts engines after a while, and tells of their ends), the sockets of the
control desk and the meter of the host's load.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from harmonicio.control.messages import HostLoad
from harmonicio.core.errors import NotFound
from harmonicio.worker import control_desk
from harmonicio.worker.instructions import EngineExited, EngineFound, EngineStarted
from harmonicio.worker.options import WorkerOptions
from harmonicio.worker.runtimes.base import EngineSpec, RuntimeContext
from harmonicio.worker.service import WorkerService
from simulation import engine as engines
from simulation import stage
from simulation.engine import ControlListener
from simulation.loop import Host, Process, Task, check_alive, current
from simulation.rest import Client
from simulation.role import RoleHost
from simulation.threads import Event

EXIT_ORDERED = 0
_LOAD = HostLoad(0.5, 1, 2, 3)


class EngineHandle:
    """An engine's process on this host: it outlives its controller."""

    def __init__(self, spec: EngineSpec, number: int) -> None:
        self.spec = spec
        self.number = number
        self.process: Process | None = None
        self.is_unwanted = False
        self.exit_code: int | None = None


class WorkerHost(RoleHost):
    """A host with a worker controller, its engines, and what its disk keeps of them.

    Attributes:
        handles: The engines that were started and not forgotten, by id.
        bonds: What the engines' folders say.
    """

    def __init__(self, world: Any, host: Host, master_url: str, **options: Any) -> None:
        super().__init__(host)
        self.world = world
        self._master_url = master_url
        self._options = options
        self.handles: dict[str, EngineHandle] = {}
        self.bonds: dict[str, str] = {}
        self.listener: Any = None
        self.service: WorkerService | None = None
        self.is_scratch_full = False
        host.shared["worker"] = self

    def _main(self, ending: Event) -> None:
        options = WorkerOptions(
            name=self.host.name,
            data_folder=PurePosixPath(f"/{self.host.name}"),  # type: ignore[arg-type]  nobody opens it
            scratch_folder=PurePosixPath("/tmp"),  # type: ignore[arg-type]
            host=self.host.name,
            is_insecure=True,
            **self._options,
        )
        service = WorkerService(options, Client(self._master_url))
        self.service = service
        service.start()
        ending.wait()
        service.stop(drain_s=10.0)
        current().process.die(0)

    def running(self) -> list[EngineHandle]:
        """Return the engines whose processes live."""
        return [each for each in self.handles.values() if each.process is not None and not each.process.is_dead]


def substitutes() -> list[tuple[Any, str, Any]]:
    """Return what stands in for what in the service's module."""
    place = stage.worker_service
    return [
        (place, "make_private", lambda _: None),
        (place, "DataFolder", Folder),
        (control_desk, "ControlListener", ControlListener),
        (place, "open_runtime", lambda _, context: Runtime(context)),
        (place, "HostMeter", Meter),
        (place, "LogReader", LogReader),
        (place, "read_board", engines.read_board),
        (place, "TICK_S", 0.2),
    ]


def _own() -> WorkerHost:
    own = check_alive().host.shared["worker"]
    assert isinstance(own, WorkerHost)
    return own


class Folder:
    """:class:`harmonicio.worker.folder.DataFolder`."""

    def __init__(self, path: Any) -> None:
        self._host = _own()
        self.engines = path
        self.identity = f"identity-{self._host.host.name}"

    def socket_of(self, engine: str) -> Any:
        return self.engines / engine

    def add(self, engine: str, bond: str, owner: object = None, *, is_bounded: bool = False) -> Any:
        self._host.bonds[engine] = bond
        return self.engines / engine

    def bond(self, engine: str) -> str:
        return self._host.bonds.get(engine, "")

    def remove(self, engine: str) -> None:
        self._host.bonds.pop(engine, None)

    def remove_strangers(self, known: set[str]) -> None:
        self._host.bonds = {engine: bond for engine, bond in self._host.bonds.items() if engine in known}

    def close(self) -> None:
        pass


class Runtime:
    """A runtime, as :mod:`harmonicio.worker.runtimes.base` says."""

    starts = ("handler",)
    owner = None
    sees_mounts = False

    def __init__(self, context: RuntimeContext) -> None:
        self._host = _own()
        self._tell = context.tell
        self._process = current().process
        self._host.listener = self

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self, event: Any) -> None:
        """Tell the controller, from a thread of its process."""
        if not self._process.is_dead and self._host.listener is self:
            self._process.spawn("runtime", self._tell, event)

    def start(self, spec: EngineSpec) -> None:
        check_alive()
        host, world = self._host, self._host.world
        handle = EngineHandle(spec, world.count_engine())
        host.handles[spec.engine] = handle
        world.loop.after(world.loop.random.uniform(*world.plan.engine_start_s), self._started, handle)

    def _started(self, handle: EngineHandle) -> None:
        host = self._host
        if host.host.suspensions:
            host.world.loop.after(0.5, self._started, handle)
            return
        if not host.host.is_up or host.handles.get(handle.spec.engine) is not handle:
            return
        process = Process(handle.spec.engine, host.host)
        handle.process = process
        process.on_death.append(lambda: _ended(host, handle))
        if handle.is_unwanted:
            process.die(EXIT_ORDERED)
            return
        process.spawn("main", engines.run, handle.spec.configuration, host.world.daemons)
        _tell(host, EngineStarted(handle.spec.engine, handle.number))

    def stop(self, engine: str) -> None:
        check_alive()
        handle = self._host.handles.get(engine)
        if handle is None:
            return
        handle.is_unwanted = True
        daemon = self._host.world.daemons.get(engine)
        if handle.process is not None and not handle.process.is_dead:
            if daemon is None or daemon.address is None:
                handle.process.die(EXIT_ORDERED)
            else:
                handle.process.spawn("signal", daemon.drain, 30.0)

    def kill(self, engine: str) -> None:
        check_alive()
        handle = self._host.handles.get(engine)
        if handle is not None:
            handle.is_unwanted = True
            if handle.process is not None:
                self._host.world.killed(handle, "killed by its controller")
                handle.process.die()

    def list(self) -> tuple[EngineFound, ...]:
        return tuple(
            EngineFound(
                each.spec.engine,
                each.spec.declaration,
                each.number,
                each.process is not None and not each.process.is_dead,
            )
            for each in self._host.handles.values()
        )

    def forget(self, engine: str) -> None:
        handle = self._host.handles.get(engine)
        if handle is not None and handle.exit_code is not None:
            del self._host.handles[engine]

    def log_part(self, *_: object) -> Any:
        raise NotFound("No logs are kept here.")

    def close(self) -> None:
        if self._host.listener is self:
            self._host.listener = None


def _ended(host: WorkerHost, handle: EngineHandle) -> None:
    assert handle.process is not None
    handle.exit_code = handle.process.exit_code
    _tell(host, EngineExited(handle.spec.engine, handle.exit_code))


def _tell(host: WorkerHost, event: Any) -> None:
    if host.listener is not None:
        host.listener.tell(event)


class Meter:
    """:class:`harmonicio.worker.host_load.HostMeter`."""

    def __init__(self, _: object) -> None:
        pass

    def measure(self) -> HostLoad:
        return _LOAD


class LogReader:
    """:class:`harmonicio.worker.log_reader.LogReader`: nobody wishes to read."""

    def __init__(self, *_: object) -> None:
        pass

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def want(self, wishes: object) -> None:
        pass


__all__ = ["EngineHandle", "Task", "WorkerHost", "substitutes"]
