"""Master and worker in this process, engines as child processes: a whole cluster on one machine.

``harmonicio up`` and ``harmonicio demo`` run one; tests and measurements use the same.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from harmonicio.control.client import MasterClient
from harmonicio.core.errors import Unavailable
from harmonicio.core.roles import Role
from harmonicio.core.settings import Settings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.assembly import BacklogOptions, assemble
from harmonicio.master.service import MasterOptions, MasterService
from harmonicio.worker.service import WorkerOptions, WorkerService

READY_WITHIN_S = 60.0
#: Both sides live and end together, so there is nobody to wait for at the start, and orphans need not wait long.
SETTLE_S, ORPHAN_AFTER_S = 0.0, 10.0
DRAIN_S = 30.0


class LocalCluster:
    """One master and one worker on loopback. Use it as a context manager.

    Args:
        folder: For everything that the two keep.
        max_engines: Engines that may run.
        runtime: What starts engines, by name.
        master, backlog: How to run the master, when not by default on free ports.

    Attributes:
        client: Asks the master as an administrator.
    """

    client: MasterClient

    def __init__(
        self,
        folder: Path,
        *,
        max_engines: int,
        runtime: str = "process",
        master: MasterOptions | None = None,
        backlog: BacklogOptions | None = None,
        payload_budget_bytes: int = 512 * 1024**2,
    ) -> None:
        self._folder = folder
        self._max_engines = max_engines
        self._runtime = runtime
        self._master_options = master or MasterOptions(folder / "master", port=0, data_port=0, settle_s=SETTLE_S)
        self._backlog_options = backlog
        self._payload_budget_bytes = payload_budget_bytes
        self._parts = ExitStack()
        self._master: MasterService | None = None

    def __repr__(self) -> str:
        return f"<LocalCluster {self._master!r} in {self._folder}>"

    @classmethod
    def of(cls, settings: Settings, declarations: Sequence[StreamDeclaration] = ()) -> Self:
        """Return the cluster that the settings describe, with room for the engines of these streams."""
        wanted, worker = settings.master, settings.worker
        return cls(
            settings.home,
            max_engines=worker.max_engines or max(os.cpu_count() or 1, sum(each.engines for each in declarations)),
            runtime=worker.runtime,
            master=MasterOptions(
                wanted.data_folder,
                host=wanted.host,
                port=wanted.port,
                data_port=wanted.data_port,
                is_insecure=wanted.insecure,
                settle_s=SETTLE_S,
            ),
            backlog=BacklogOptions(
                max_disk_bytes=wanted.backlog_max_disk_bytes,
                hot_cache_bytes=wanted.backlog_hot_cache_bytes,
                dead_letter_max_bytes=wanted.dead_letter_max_bytes,
            ),
            payload_budget_bytes=worker.payload_budget_bytes,
        )

    def __enter__(self) -> Self:
        with ExitStack() as parts:
            self._master = assemble(self._master_options, self._backlog_options)
            parts.enter_context(self._master)
            self.client = parts.enter_context(MasterClient(self.url, self.token(Role.ADMIN)))
            worker = WorkerService(
                WorkerOptions(
                    name=socket.gethostname() or "worker",
                    data_folder=self._folder / "worker",
                    scratch_folder=self._folder / "scratch",
                    max_engines=self._max_engines,
                    runtime=self._runtime,
                    payload_budget_bytes=self._payload_budget_bytes,
                    orphan_after_s=ORPHAN_AFTER_S,
                ),
                MasterClient(self.url, self.token(Role.WORKER)),
            )
            worker.start()
            parts.callback(worker.stop, DRAIN_S)
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

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

    def declare(self, declaration: StreamDeclaration) -> StreamDeclaration:
        """Declare a stream; engines start at once."""
        return self.client.declare_stream(declaration)

    def wait_for_engines(
        self, stream: str, count: int, *, timeout_s: float = READY_WITHIN_S, stop: threading.Event | None = None
    ) -> None:
        """Wait until so many engines of a stream can work, or until ``stop`` is set.

        Raises:
            Unavailable: they do not run in time; says what the worker says.
        """
        stop = stop or threading.Event()
        deadline = time.monotonic() + timeout_s
        while self.client.stream(stream).running < count and not stop.wait(0.05):
            if time.monotonic() > deadline:
                troubles = [trouble.text for worker in self.client.workers() for trouble in worker.troubles]
                raise Unavailable(
                    f"Stream {stream!r} has fewer than {count} engines after {timeout_s:.0f} s.",
                    hint=" ".join(troubles) or "See: harmonicio status",
                )
