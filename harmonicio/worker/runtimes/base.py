"""What every runtime can do: start, stop, kill and find engines; tell what becomes of them; keep their logs.

    start ──► Starting … ──► Started ──► (lives) ──► Exited, told once ──► forget
                   │                        │
                   └──► NotStarted          └── outlives its runtime: the next one finds it

Rules:

- What a runtime starts survives the runtime and its process. It leaves a mark, so that the next one finds exactly its
  own engines and never touches anything else.
- ``start`` returns soon; how it goes on is told. Whoever tells says of each engine either that it has started, and then
  once that it has ended, or that it has not started. Of engines that ``list`` found the end is told, too.
- Orders return soon. About an engine that has ended, or that nobody knows, they do nothing; one that is being started
  does not start.
- A log is read in parts, also some time after its engine has ended; the mark of a part says where the next one begins,
  also in the next runtime on this folder. Reading may take long: whoever cannot wait asks from another thread.
- An engine has its own folder on the host, with its control socket in it, made before ``start`` and removed after
  ``forget`` by whoever owns the runtime.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from harmonicio.control.engine_messages import EngineConfiguration
from harmonicio.control.log_messages import LOG_PART_BYTES, LogPart
from harmonicio.core.errors import NotFound
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.worker.instructions import EngineFound, RuntimeEvent

Tell = Callable[[RuntimeEvent], None]


@dataclass(frozen=True, slots=True)
class RuntimeContext:
    """Where a runtime works.

    Attributes:
        folder: Holds one folder per engine, named like the engine.
        scratch_folder: For payloads that are too large for memory, and what handlers make for a while.
        tell: Told what becomes of engines, from any thread; must not call the runtime.
        worker: Random, and the same for as long as the worker's data folder exists: marks what is ours.
        max_engines: How many engines this host may run.
        docker: The settings of the docker runtime.
    """

    folder: Path
    tell: Tell
    scratch_folder: Path = Path()
    worker: str = ""
    max_engines: int = 1
    docker: DockerSettings = field(default_factory=DockerSettings)


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine to start.

    Attributes:
        folder: The engine's own folder. What is in its ``socket`` folder is for the engine, the rest for nobody else.
        configuration: Given to it in a way that nobody else can read; holds its key. Paths and addresses are the
            host's.
        image: Digest of the image that it must be, because other engines of the stream run that; empty: any.
    """

    engine: str
    folder: Path
    configuration: EngineConfiguration
    image: str = ""

    @property
    def declaration(self) -> StreamDeclaration:
        return self.configuration.declaration


class Runtime(ABC):
    """Starts engines on this host.

    Attributes:
        starts: The kinds of streams whose engines it can start (``StreamDeclaration.kind``).
        sees_mounts: What the worker mounts at a socket folder is there for the engine.
    """

    starts: ClassVar[tuple[str, ...]] = ("handler", "image")
    sees_mounts: bool = False

    @abstractmethod
    def __init__(self, context: RuntimeContext) -> None: ...

    @property
    def owner(self) -> tuple[int, int] | None:
        """User and group id to whom the engines' socket folders belong; ``None``: to the worker itself."""
        return None

    @property
    def is_intact(self) -> bool:
        """Whether the ends of engines can still be heard: its own thread may have ended."""
        return True

    @abstractmethod
    def start(self, spec: EngineSpec) -> None:
        """Begin to start an engine.

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

        From now on their ends are told as well. What is left of starts that were cut off is removed.

        Raises:
            Unavailable: it cannot be known at present.
        """

    @abstractmethod
    def forget(self, engine: str) -> None:
        """Remove what is left of an engine that has ended; its log is kept for a while."""

    @abstractmethod
    def log_part(self, engine: str, after: str = "", max_bytes: int = LOG_PART_BYTES) -> LogPart:
        """Return what is there of an engine's log after a mark; without one, or with one that says nothing, its end.

        Raises:
            NotFound: nothing is known of this engine any more.
            Unavailable: it cannot be read at present.
        """

    def logs(self, engine: str, last_bytes: int = LOG_PART_BYTES) -> str:
        """Return the end of an engine's log as text; raises as :meth:`log_part` does."""
        return self.log_part(engine, max_bytes=last_bytes).text

    @abstractmethod
    def close(self) -> None:
        """End the runtime's threads and let go of the engines, which live on. May be called more than once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def no_log_of(engine: str) -> NotFound:
    """Return what to raise where nothing is known of an engine any more."""
    return NotFound(f"There is no log of engine {engine!r} here.", hint="Logs of the last ended engines are kept.")
