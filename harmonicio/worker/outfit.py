"""What an engine is given when it starts: its key, its own ticket, and where its master is.

worker's key ── derive "engine", id ──► engine's key ── sign ──► engine's ticket
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from harmonicio.control import tickets
from harmonicio.control.engine_messages import EngineConfiguration
from harmonicio.control.messages import WorkerWelcome
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.stream import StreamDeclaration
from harmonicio.transport.credentials import NO_CREDENTIALS, TlsCredentials


@dataclass(frozen=True, slots=True)
class Outfitter:
    """Equips the engines of one worker.

    Attributes:
        listen_host: Where engines listen and connectors reach them.
        scratch_folder: For payloads that are too large for memory.
        payload_budget_bytes: Payload bytes in memory of one engine.
        orphan_after_s: Engines that have no controller for this long drain and end.
        tls: What they show, and whom they believe.
    """

    worker: str
    master_url: str
    listen_host: str
    scratch_folder: Path
    payload_budget_bytes: int
    orphan_after_s: float
    tls: TlsCredentials = NO_CREDENTIALS

    def bond(self, welcome: WorkerWelcome) -> str:
        """Return a digest of everything that ties an engine to this master; it reveals nothing of the key."""
        ties = [self.worker, self.master_url, welcome.ticket_key, str(welcome.data_address)]
        speaks_tls = bool(self.tls.identity.certificate)
        if welcome.data_address.speaks_tls or speaks_tls:  # Certificates are renewed, but no port begins to speak TLS.
            ties += [str(welcome.data_address.speaks_tls), str(speaks_tls)]
        return hashlib.sha256(json.dumps(ties).encode()).hexdigest()

    def configuration(
        self,
        engine: str,
        declaration: StreamDeclaration,
        welcome: WorkerWelcome,
        *,
        control_socket: Path,
        wall_s: float,
    ) -> EngineConfiguration:
        """Return the configuration of a new engine.

        Args:
            wall_s: Seconds since 1970, for the ticket.
        """
        key = tickets.derive_key(welcome.ticket_key, "engine", engine)
        term_s = tickets.ENGINE_TICKET_TERM_S
        claims = Claims(TicketKind.ENGINE, declaration.name, term_s, issued_at=wall_s, epoch=0, engine=engine)
        return EngineConfiguration(
            engine=engine,
            worker=self.worker,
            declaration=declaration,
            key=key,
            ticket=tickets.sign(key, claims),
            master_url=self.master_url,
            master_data=welcome.data_address,
            control_socket=str(control_socket),
            listen_host=self.listen_host,
            scratch_folder=str(self.scratch_folder),
            payload_budget_bytes=self.payload_budget_bytes,
            orphan_after_s=self.orphan_after_s,
            tls=self.tls.identity,
        )
