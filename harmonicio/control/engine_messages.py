"""What a controller tells the engines of its host: one configuration when it starts them, then orders.

What engines tell it is an :class:`~harmonicio.control.messages.EngineReport`, which it passes on to the master.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from harmonicio.core.certificates import NO_TLS, TlsIdentity
from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration

#: What a container sees of its engine's folder, and what it finds there.
SOCKET_FOLDER_INSIDE = "/run/harmonicio"
CONFIGURATION_NAME = "configuration.json"
#: In the same folder an engine listens for sources of its own host.
DATA_SOCKET_NAME = "data.sock"
CONFIGURATION_PATH = f"{SOCKET_FOLDER_INSIDE}/{CONFIGURATION_NAME}"


@dataclass(frozen=True, slots=True)
class EngineConfiguration:
    """What a controller gives an engine as one line of JSON, never by environment: on standard input, or in a container
    in the file :data:`CONFIGURATION_PATH`, which the engine removes once it has read it.

    Attributes:
        key: Hex key of this engine; lease tickets are signed with it.
        ticket: The engine's own ticket, for the master's data port and for REST.
        master_url, master_data: Where the master answers; the data port takes the engine's connection for the backlog.
        control_socket: UNIX socket of the controller, in the engine's folder.
        listen_host, listen_port: Where the data port listens; port 0 takes a free one.
        scratch_folder: For payloads above ``memory_payload_max_bytes`` (unlinked files only), and for what the handler
            makes for a while: it is the engine's ``TMPDIR``.
        payload_budget_bytes: Payload bytes that may be in memory at the same time.
        tls: What its data port shows, and whom it believes; texts, because a container does not see the host's files.
        image: Digest of the container image that it runs in, to be recorded with results; empty without one.
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
    listen_port: int = 0
    tls: TlsIdentity = NO_TLS
    image: str = ""


@dataclass(frozen=True, slots=True)
class EngineOrder:
    """What a controller orders: finish what runs, then end, ``within_s``; refuse leases older than ``epoch``; show and
    believe what ``tls`` says from now on.
    """

    within_s: float | None = None
    epoch: int = 0
    tls: TlsIdentity | None = None
