"""How much memory a process takes while something is done to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def growth_bytes(pid: int, action: Callable[[], object]) -> int:
    """Return by how much the resident memory of a process has grown at most while the action ran."""
    about = Path("/proc", str(pid))
    (about / "clear_refs").write_text("5")  # Its peak counts from here.
    before = _kilobytes(about, "VmRSS")
    action()
    return max(0, _kilobytes(about, "VmHWM") - before) * 1024


def _kilobytes(about: Path, name: str) -> int:
    lines = (about / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
