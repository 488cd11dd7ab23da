"""What a controller tells the engines of its host: one configuration when it starts them, then orders.

What engines tell it is an :class:`~harmonicio.control.messages.EngineReport`, which it passes on to the master.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration


@dataclass(frozen=True, slots=True)
class EngineConfiguration:
    """What a controller gives an engine on standard input, as one line of JSON; never by environment.

    Attributes:
        key: Hex key of this engine; lease tickets are signed with it.
        ticket: The engine's own ticket, for the master's data port and for REST.
        master_url, master_data: Where the master answers; the data port takes the engine's connection for the backlog.
        control_socket: UNIX socket of the controller, in the engine's folder.
        listen_host: Where the data port listens, on a free port.
        scratch_folder: For payloads above ``memory_payload_max_bytes``; unlinked files only.
        payload_budget_bytes: Payload bytes that may be in memory at the same time.
        orphan_after_s: Without a controller for this long, the engine drains and ends.
    """

    engine: str
    worker: str
    declaration: StreamDeclaration
    key: str = field(repr=False)
    ticket: str = field(repr=False)
    master_url: str
    master_data: Address
    control_socket: str
    listen_host: str
    scratch_folder: str
    payload_budget_bytes: int
    orphan_after_s: float


@dataclass(frozen=True, slots=True)
class EngineOrder:
    """What a controller orders: finish what runs, then end, ``within_s``; refuse leases older than ``epoch``."""

    within_s: float | None = None
    epoch: int = 0
