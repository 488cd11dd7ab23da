"""How busy this host is, as psutil sees it."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from harmonicio.control.messages import HostLoad

#: The share of CPU means nothing over shorter times.
SHORTEST_INTERVAL_S = 1.0


class HostMeter:
    """Measures the load of this host; belongs to one thread.

    Args:
        scratch_folder: On the volume whose free space counts; the nearest folder above it that exists is asked.
    """

    def __init__(self, scratch_folder: Path) -> None:
        self._scratch_folder = scratch_folder
        self._last: HostLoad | None = None
        self._measured_at = time.monotonic()
        psutil.cpu_percent(interval=None)  # The share of CPU is measured from one call to the next.

    def __repr__(self) -> str:
        return f"<HostMeter {self._scratch_folder} {self._last}>"

    def measure(self) -> HostLoad:
        """Return the load now; when it is asked again within a second, that of before."""
        now = time.monotonic()
        if self._last is None or now - self._measured_at >= SHORTEST_INTERVAL_S:
            self._last, self._measured_at = self._measure(), now
        return self._last

    def _measure(self) -> HostLoad:
        memory = psutil.virtual_memory()
        folder = self._scratch_folder
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return HostLoad(
            cpu_fraction=min(1.0, psutil.cpu_percent(interval=None) / 100),
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            disk_free_bytes=psutil.disk_usage(str(folder)).free,
        )
