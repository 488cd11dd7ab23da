"""A host on which a master or a worker's controller runs, dies and is started again."""

from __future__ import annotations

from abc import ABC, abstractmethod

from simulation.loop import Host, Process
from simulation.threads import Event


class RoleHost(ABC):
    """Starts a role's process, and tells it to end.

    Attributes:
        process: The one that runs, or ran last.
        starts: How often it was started.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.process: Process | None = None
        self.starts = 0
        self._ending: Event | None = None

    @abstractmethod
    def _main(self, ending: Event) -> None:
        """Run the role until ``ending`` is set, and end the process."""

    @property
    def is_running(self) -> bool:
        return self.process is not None and not self.process.is_dead

    @property
    def is_ending(self) -> bool:
        """Whether it was told to end."""
        return self._ending is not None and self._ending.is_set()

    def start(self) -> None:
        self.starts += 1
        self.process = Process(f"{self.host.name}.{self.starts}", self.host)
        self._ending = Event()
        self.process.spawn("main", self._main, self._ending)

    def end(self) -> None:
        """SIGTERM."""
        if self._ending is not None:
            self._ending.set()
