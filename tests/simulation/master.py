"""The master's host: the real :class:`~harmonicio.master.service.MasterService`, on our disk and network.

Ours are only: the SQLite file of streams (:class:`Records`; every change is on stable storage when it returns, as
there), the data folder, the bearer tokens, and HTTP (:mod:`simulation.rest`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from harmonicio.control import json_codec
from harmonicio.core.clock import SystemClock
from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.base import StoreLimits
from harmonicio.master.master import Master
from harmonicio.master.service import BacklogOptions, MasterOptions, MasterService
from simulation import stage
from simulation.disk import Disk, SimulatedStore
from simulation.loop import Host, current
from simulation.rest import WebServer
from simulation.role import RoleHost
from simulation.threads import Event

PORT, DATA_PORT = 8710, 8711
DRAIN_S = 5.0


class Records:
    """:class:`harmonicio.master.store.MasterStore`."""

    def __init__(self, key: str) -> None:
        self.ticket_key = key
        self.epoch = 1
        self._streams: dict[str, bytes] = {}
        self._versions: dict[str, int] = {}

    def raise_epoch(self) -> int:
        self.epoch += 1
        return self.epoch

    def streams(self) -> tuple[StreamDeclaration, ...]:
        return tuple(json_codec.loads(StreamDeclaration, text) for _, text in sorted(self._streams.items()))

    def last_version(self, stream: str) -> int:
        return self._versions.get(stream, 0)

    def put_stream(self, declaration: StreamDeclaration) -> None:
        self._streams[declaration.name] = json_codec.dumps(declaration)
        self._versions[declaration.name] = declaration.version

    def drop_stream(self, stream: str) -> None:
        self._streams.pop(stream, None)

    def close(self) -> None:
        pass


class Folder:
    """:class:`harmonicio.master.folder.DataFolder`."""

    def __init__(self, path: Any) -> None:
        self.database = self.backlog = self.audit = path

    def close(self) -> None:
        pass


class Tokens:
    """:class:`harmonicio.master.tokens.TokenBook`: everybody has one."""

    def __init__(self, *_: object) -> None:
        pass

    def make_first(self, folder: object) -> None:
        pass

    def is_known(self, mark: str) -> bool:
        return True


class MasterHost(RoleHost):
    """A host on which a master runs, dies and is started again.

    Attributes:
        service: Of the master that runs, or ran last.
    """

    def __init__(self, world: Any, host: Host, options: dict[str, Any], backlog_bytes: int, key: str) -> None:
        super().__init__(host)
        self._world = world
        self._options = options
        self._backlog_bytes = backlog_bytes
        self.records = Records(key)
        loop = host.loop
        self.disk = Disk(self._later, lambda: loop.random.uniform(*self.sync_s))
        self.sync_s = world.plan.sync_s
        self.service: MasterService | None = None

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Have a thread of the master that runs do something, unless it is dead by then."""
        self.host.loop.after(delay_s, current().process.spawn, "backlog-writer", call)

    def substitutes(self) -> list[tuple[Any, str, Any]]:
        """Return what stands in for what in the service's module."""
        place = stage.master_service
        return [
            (place, "DataFolder", Folder),
            (place, "MasterStore", lambda *_: self.records),
            (place, "TokenBook", Tokens),
            (place, "AuditLog", lambda *_: None),  # What writes it is not simulated: it is the web application's.
            (place, "open_extensions", lambda _: {}),
            (place, "extension_endpoints", lambda *_: []),
            (place, "find_outcome", lambda _, declaration, message, size_bytes: self._world.effects.recorded(message)),
            (place, "all_endpoints", list),
            (place, "create_app", lambda master, _: master),
            (place, "HttpServer", self._web_server),
            (place, "create_store", self._store),
        ]

    def _store(self, name: str, folder: object, limits: StoreLimits) -> SimulatedStore:
        return SimulatedStore(self.disk, limits, SystemClock())

    def _web_server(self, address: Address, app: Master, **_: object) -> Any:
        self._world.web.servers[self.host.name] = WebServer(app, current().process)
        return _Bound(address, self._world.web, self.host.name)

    def _main(self, ending: Event) -> None:
        options = MasterOptions(
            data_folder=PurePosixPath("/master"),  # type: ignore[arg-type]  nobody opens it
            host=self.host.name,
            port=PORT,
            data_port=DATA_PORT,
            is_insecure=True,
            **self._options,
        )
        service = MasterService(options, BacklogOptions(max_disk_bytes=self._backlog_bytes))
        self.service = service
        service.start()
        ending.wait()
        service.drain(DRAIN_S)
        service.close()
        current().process.die(0)

    def crash(self) -> int:
        """Die, and lose what was not on stable storage; return how many writes that were."""
        assert self.process is not None
        self.process.die()
        return self.disk.crash(self.host.loop.random.randrange)


class _Bound:
    """A web server that listens."""

    def __init__(self, address: Address, web: Any, host: str) -> None:
        self.address = address
        self.url = f"http://{address}"
        self._web, self._host = web, host

    def close(self) -> None:
        self._web.servers.pop(self._host, None)
