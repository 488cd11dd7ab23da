"""How to run a worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harmonicio.core.settings import DockerSettings
from harmonicio.transport.credentials import NO_CREDENTIALS, TlsCredentials


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How to run a worker.

    Attributes:
        name: Unique among the workers of a master.
        data_folder: Engines' folders and logs; used by one service at a time.
        scratch_folder: For payloads that are too large for memory.
        runtime: What starts engines, by name.
        host: Address on which engines listen and connectors reach them.
        payload_budget_bytes: Payload bytes in memory of one engine.
        orphan_after_s: Engines that have no controller for this long drain and end.
        is_insecure: Engines listen beyond loopback without TLS all the same.
        tls: What engines show, and whom they believe.
        docker: The settings of the docker runtime.
    """

    name: str
    data_folder: Path
    scratch_folder: Path
    max_engines: int
    runtime: str = "process"
    host: str = "127.0.0.1"
    payload_budget_bytes: int = 512 * 1024**2
    orphan_after_s: float = 120.0
    is_insecure: bool = False
    tls: TlsCredentials = NO_CREDENTIALS
    docker: DockerSettings = field(default_factory=DockerSettings)
