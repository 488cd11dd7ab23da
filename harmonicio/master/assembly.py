"""A master with its real parts: the SQLite backlog and the data port."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harmonicio.core.errors import ConfigurationError
from harmonicio.core.lease import Address
from harmonicio.master.backlog.backlog import Backlog
from harmonicio.master.backlog.base import StoreLimits
from harmonicio.master.backlog.budget import LedgerLimits
from harmonicio.master.backlog.stores import create_store
from harmonicio.master.connector_session import CREDIT_NEEDS_BYTES
from harmonicio.master.intake import Intake
from harmonicio.master.master import Master
from harmonicio.master.service import MasterOptions, MasterService

#: Credit is given while ``CREDIT_NEEDS_BYTES`` are free: with less than this in all, hardly anybody would get any.
MIN_DISK_BYTES = 2 * CREDIT_NEEDS_BYTES


@dataclass(frozen=True, slots=True)
class BacklogOptions:
    """What the backlog may use.

    Attributes:
        store: Name of the store.
        max_disk_bytes: Payload bytes that may wait.
        hot_cache_bytes: Payload bytes kept in memory, so that they need not be read back.
        dead_letter_max_bytes: Payload bytes of dead letters.

    Raises:
        ConfigurationError: the backlog would be too small to take messages.
    """

    store: str = "sqlite"
    max_disk_bytes: int = 100 * 1024**3
    hot_cache_bytes: int = 256 * 1024**2
    dead_letter_max_bytes: int = 10 * 1024**3

    def __post_init__(self) -> None:
        if self.max_disk_bytes < MIN_DISK_BYTES:
            raise ConfigurationError(
                f"A backlog of {self.max_disk_bytes} bytes is too small to take messages.",
                hint=f"Set master.backlog_max_disk_bytes to at least {MIN_DISK_BYTES} bytes.",
            )


def assemble(options: MasterOptions, backlog: BacklogOptions | None = None) -> MasterService:
    """Return a master that is ready to start.

    Raises:
        ConfigurationError, Conflict, StorageError: as :class:`MasterService` says.
    """
    limits = backlog or BacklogOptions()
    opened: list[Backlog] = []

    def open_backlog(folder: Path) -> Backlog:
        store = create_store(limits.store, folder, StoreLimits(hot_cache_bytes=limits.hot_cache_bytes))
        room = LedgerLimits(max_bytes=limits.max_disk_bytes, dead_letter_bytes=limits.dead_letter_max_bytes)
        opened.append(Backlog(store, room))
        return opened[0]

    def open_data_port(master: Master, address: Address) -> Intake:
        return Intake(
            address.host,
            address.port,
            opened[0],
            verify_intake=master.office.verify_intake_ticket,
            verify_engine=master.office.verify_engine_ticket,
            find_stream=master.stream,
        )

    return MasterService(options, open_backlog=open_backlog, open_data_port=open_data_port)
