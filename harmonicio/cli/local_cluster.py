"""Master and worker in this process, engines as child processes or containers: a whole cluster on one machine.

``harmonicio up`` and ``harmonicio demo`` run one; tests and measurements use the same.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

from harmonicio.cli import console
from harmonicio.cli.foreground import DRAIN_S
from harmonicio.cli.master import backlog_options, master_options, opened_master
from harmonicio.cli.readiness import READY_WITHIN_S
from harmonicio.cli.worker import worker_options
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import StreamView
from harmonicio.core.errors import InvalidInput, Unavailable
from harmonicio.core.roles import Role
from harmonicio.core.settings import Settings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import BacklogOptions, MasterOptions, MasterService
from harmonicio.worker.options import WorkerOptions
from harmonicio.worker.service import WorkerService

#: Both sides live and end together, so there is nobody to wait for at the start, and orphans need not wait long.
SETTLE_S, ORPHAN_AFTER_S = 0.0, 10.0
#: Runtimes, by what they start.
PROCESSES, CONTAINERS = "process", "docker"


class LocalCluster:
    """One master and one worker on loopback. Use it as a context manager.

    Args:
        folder: For what the options that are left out would say: everything that the two keep.
        max_engines: Engines that may run; 0 makes places for all declared streams, at least one per CPU core.
        master, backlog: How to run the master, when not by default on free ports.
        worker: How to run the worker, when not by default; ``max_engines`` of it counts.
        streams: Streams that will be declared, for which there are to be places as well.

    Attributes:
        client: Asks the master as an administrator.
        earlier_streams: What was declared already when this cluster started.
    """

    client: MasterClient
    earlier_streams: tuple[StreamView, ...]

    def __init__(
        self,
        folder: Path,
        *,
        max_engines: int = 0,
        master: MasterOptions | None = None,
        backlog: BacklogOptions | None = None,
        worker: WorkerOptions | None = None,
        streams: Sequence[StreamDeclaration] = (),
    ) -> None:
        self._master_options = master or MasterOptions(folder / "master", port=0, data_port=0, settle_s=SETTLE_S)
        self._backlog_options = backlog or BacklogOptions()
        worker = worker or WorkerOptions("local", folder / "worker", folder / "scratch", max_engines=max_engines)
        self._worker_options = replace(worker, orphan_after_s=ORPHAN_AFTER_S)
        if worker.runtime == CONTAINERS:
            self._open_to_containers()
        self._streams = tuple(streams)
        self._parts = ExitStack()
        self._master: MasterService | None = None
        self._worker: WorkerService | None = None

    def __repr__(self) -> str:
        return f"<LocalCluster {self._master!r}, worker {self._worker_options.name!r}>"

    @classmethod
    def of(cls, settings: Settings, streams: Sequence[StreamDeclaration] = ()) -> Self:
        """Return the cluster that the settings describe, with places for the engines of these streams."""
        return cls(
            settings.home,
            master=replace(master_options(settings), settle_s=SETTLE_S),
            backlog=backlog_options(settings),
            worker=replace(worker_options(settings), runtime=runtime_for(streams, settings)),
            streams=streams,
        )

    def __enter__(self) -> Self:
        with ExitStack() as parts:
            self._master = parts.enter_context(opened_master(self._master_options, self._backlog_options))
            self.client = parts.enter_context(self._client_as(Role.ADMIN))
            self.earlier_streams = self.client.streams()
            options = self._worker_options
            places = options.max_engines or max(os.cpu_count() or 1, self._wanted_engines())
            worker = WorkerService(replace(options, max_engines=places), self._client_as(Role.WORKER))
            worker.start()
            parts.callback(worker.stop, 0.0)
            self._worker = worker
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, drain_s: float = DRAIN_S, hurry: threading.Event | None = None) -> bool:
        """End engines, worker and master. May be called more than once.

        Args:
            hurry: When it is set, engines have no more time.

        Returns:
            Whether every engine finished what it ran.
        """
        is_drained = self._worker is None or self._worker.stop(drain_s, hurry)
        self._parts.close()
        return is_drained

    def _open_to_containers(self) -> None:
        """Let containers reach the master over their bridge, and run what is declared: it is all the same user's."""
        from harmonicio.worker.containers.docker_host import (
            bridge_address,  # Who needs no containers needs no such package.
        )

        docker = self._worker_options.docker
        bridge_host = docker.master_host or bridge_address(docker)
        own = replace(docker, master_host=bridge_host, images=docker.images or ("*",), folders=docker.folders or ("/",))
        self._worker_options = replace(self._worker_options, docker=own)
        self._master_options = replace(self._master_options, bridge_host=bridge_host)

    def _wanted_engines(self) -> int:
        """Return how many engines the streams want, those of earlier runs and those that will be declared."""
        wanted = {view.declaration.name: view.desired for view in self.earlier_streams}
        return sum((wanted | {each.name: each.engines for each in self._streams}).values())

    @property
    def gone_parts(self) -> tuple[str, ...]:
        """Parts of master and worker that have ended although nobody closed them."""
        roles = {"master": self._master, "worker": self._worker}
        return tuple(f"{role}'s {part}" for role, service in roles.items() if service for part in service.gone_parts)

    @property
    def url(self) -> str:
        """Where the master's REST API is."""
        assert self._master is not None, "the cluster has been entered"
        return self._master.url

    @property
    def source_token(self) -> str:
        """The token of a source application."""
        return self.token(Role.SOURCE)

    def token(self, role: Role) -> str:
        """Return the first token of a role."""
        assert self._master is not None, "the cluster has been entered"
        return self._master.token_file(role).read_text().strip()

    def _client_as(self, role: Role) -> MasterClient:
        return MasterClient(self.url, self.token(role), tls=self._worker_options.tls)

    def starts(self, declaration: StreamDeclaration) -> bool:
        """Whether engines of a stream start here, as far as its kind decides that."""
        return self._worker_options.runtime != (PROCESSES if declaration.image else CONTAINERS)

    def declare(self, declaration: StreamDeclaration) -> StreamDeclaration:
        """Declare a stream; engines start at once."""
        return self.client.declare_stream(declaration)

    def wait_for_engines(self, stream: str, count: int, *, timeout_s: float = READY_WITHIN_S) -> None:
        """Wait until so many engines of a stream can work.

        Raises:
            Unavailable: they do not run in time; says what the worker says.
        """
        deadline = time.monotonic() + timeout_s
        while (running := self.client.stream(stream).running) < count:
            if time.monotonic() > deadline:
                of_all = [trouble for worker in self.client.workers() for trouble in worker.troubles]
                troubles = [trouble.text for trouble in of_all if trouble.stream == stream]
                raise Unavailable(
                    f"Stream {stream!r} has {running} of {console.count(count, 'engine')} after {timeout_s:.0f} s.",
                    hint=" ".join(troubles) or "See: harmonicio status",
                )
            time.sleep(0.05)


def runtime_for(streams: Sequence[StreamDeclaration], settings: Settings) -> str:
    """Return which runtime starts the engines of these streams: what is set, else what they need.

    Raises:
        InvalidInput: no runtime starts them all, or not the one that is set.
    """
    images = [each.name for each in streams if each.image]
    handlers = [each.name for each in streams if not each.image]
    if images and handlers:
        raise InvalidInput(
            f"Stream {images[0]!r} has an image, and stream {handlers[0]!r} a handler: one worker runs containers or "
            "processes, not both.",
            hint="Build an image of the handler, too: harmonicio image build FOLDER",
        )
    needed, given = (CONTAINERS if images else PROCESSES), settings.worker.runtime
    origin = settings.origins.get("worker.runtime")
    if origin is None:
        return needed
    if given != needed and given in (CONTAINERS, PROCESSES) and streams:
        raise InvalidInput(
            f"Stream {streams[0].name!r} needs the runtime {needed!r}, and worker.runtime is {given!r} ({origin}).",
            hint="Leave it out: a cluster on this machine takes the one that its streams need.",
        )
    return given
