"""What every runtime can do: start, stop, kill and find engines; tell their ends; keep their logs.

    start ──► (lives) ──► end, told once through on_exit ──► forget
                │
                └── outlives its runtime: close() lets go, and list() of the next one finds it

Rules:

- What a runtime starts survives the runtime and its process. It leaves a mark, so that the next one finds exactly its
  own engines and never touches anything else.
- ``start`` returns soon. What fails later is an end.
- Each end is told once, from a thread of the runtime, and also for engines that ``list`` found.
- Orders about an engine that has ended, or that nobody knows, do nothing.
- An engine has its own folder on the host, with its control socket in it, made before ``start`` and removed after
  ``forget`` by whoever owns the runtime.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harmonicio.control.engine_messages import EngineConfiguration
from harmonicio.core.stream import StreamDeclaration
from harmonicio.worker.instructions import EngineExited, EngineFound

OnExit = Callable[[EngineExited], None]

LOG_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine to start.

    Attributes:
        folder: The engine's own folder, for nobody else to read.
        configuration: Given to it on standard input; holds its key.
    """

    engine: str
    folder: Path
    configuration: EngineConfiguration

    @property
    def declaration(self) -> StreamDeclaration:
        return self.configuration.declaration


class Runtime(ABC):
    """Starts engines on this host.

    Args:
        folder: Holds one folder per engine, named like the engine.
        on_exit: Told of each end, from a thread of the runtime; must not call the runtime.
    """

    @abstractmethod
    def __init__(self, folder: Path, on_exit: OnExit) -> None: ...

    @abstractmethod
    def start(self, spec: EngineSpec) -> int:
        """Start an engine and return its process id on this host, 0 where there is none.

        Raises:
            HarmonicIOError: it could not be started, and nothing of it is there.
        """

    @abstractmethod
    def stop(self, engine: str) -> None:
        """Ask an engine to finish what it runs and end."""

    @abstractmethod
    def kill(self, engine: str) -> None:
        """End an engine now, with all that it started, whatever it is doing."""

    @abstractmethod
    def list(self) -> tuple[EngineFound, ...]:
        """Return the engines that an earlier runtime on this folder started, also those that have ended.

        From now on their ends are told as well.
        """

    @abstractmethod
    def forget(self, engine: str) -> None:
        """Remove what is left of an engine that has ended; its log is kept for a while."""

    @abstractmethod
    def logs(self, engine: str, last_bytes: int = LOG_TAIL_BYTES) -> str:
        """Return the end of an engine's log, also some time after it has ended.

        Raises:
            NotFound: nothing is known of this engine any more.
        """

    @abstractmethod
    def close(self) -> None:
        """End the runtime's threads and let go of the engines, which live on. May be called more than once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
