"""The mark that a started process leaves in its engine's folder, and how it is known again.

A pid alone is reused sooner or later. The moment at which the kernel started a process, in clock ticks since boot, and
the boot's own id tell it from every other process, whatever happens to the wall clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harmonicio.core.stream import StreamDeclaration
from harmonicio.worker.runtimes.mark import read_mark, write_mark

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """Which process an engine is, and what it runs."""

    engine: str
    pid: int
    start_ticks: int
    boot: str
    declaration: StreamDeclaration

    @classmethod
    def of(cls, engine: str, pid: int, declaration: StreamDeclaration) -> ProcessMark:
        """Return the mark of a process that is there now, dead but not yet waited for included."""
        return cls(engine, pid, start_ticks(pid) or 0, boot_id(), declaration)

    def is_alive(self) -> bool:
        """Whether exactly this process is still there."""
        return self.boot == boot_id() and start_ticks(self.pid) == self.start_ticks

    def write(self, folder: Path) -> None:
        write_mark(folder, self)


def find_mark(folder: Path) -> ProcessMark | None:
    """Return the mark in an engine's folder; ``None`` when there is none that belongs there."""
    mark = read_mark(folder, ProcessMark)
    return mark if mark is not None and mark.engine == folder.name and mark.pid > 1 else None


def start_ticks(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since boot (field 22 of proc_pid_stat(5))."""
    try:
        fields = Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def boot_id() -> str:
    """Return the id that the kernel gave itself when it started."""
    return _BOOT_ID.read_text().strip()
