"""One engine's container, as the runtime follows it, and what the Docker engine's words about it mean.

waiting ──► made (id) ──► started ──► ended ──► told
                └────────────► not started, and why
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonicio.core.lease import Address
from harmonicio.worker.containers.container_maker import ContainerMark
from harmonicio.worker.containers.container_plan import address_of

_KILLED_BY_SIGNAL = 128
#: In these states a container runs nothing; in others (running, paused …) it lives.
OVER = ("created", "exited", "dead", "removing")


@dataclass(slots=True, eq=False)
class EngineContainer:
    """One engine: what it is made of, and how far its life is."""

    mark: ContainerMark
    folder: Path
    id: str = ""
    is_unwanted: bool = False
    why_not_started: str | None = None
    is_started: bool = False
    has_ended: bool = False
    is_end_told: bool = False
    signals: set[str] = field(default_factory=set)

    @property
    def engine(self) -> str:
        return self.mark.engine


def facts_of(mark: ContainerMark, inspected: Mapping[str, Any]) -> tuple[int, Address | None]:
    """Return the process id on the host and the address of a container, which one that has ended already has not.

    Raises:
        Unavailable: it runs where nobody can reach it.
    """
    if not is_running(inspected):
        return 0, None
    address = address_of(mark.listen_host, mark.network, inspected["NetworkSettings"])
    return int(inspected["State"]["Pid"]), address


def is_running(inspected: Mapping[str, Any]) -> bool:
    return bool(inspected["State"]["Running"])


def signed(exit_code: int | None) -> int | None:
    """Return an exit code as of a process: negative for a signal."""
    is_signal = exit_code is not None and exit_code > _KILLED_BY_SIGNAL
    return _KILLED_BY_SIGNAL - exit_code if is_signal and exit_code is not None else exit_code
