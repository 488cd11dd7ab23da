"""The logs of the last engines that have ended, each in a file, as their runtime wrote it."""

from __future__ import annotations

import os
from pathlib import Path

MAX_KEPT_LOGS = 20
MAX_KEPT_LOG_BYTES = 1_000_000


class LogArchive:
    """Keeps logs for a while.

    Args:
        folder: Its own; made with the first log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"<LogArchive {self._folder}>"

    def keep(self, engine: str, log: bytes) -> None:
        """Keep an engine's log, and drop the oldest ones that are kept."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self.path(engine)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as kept:
            kept.write(log)
        by_age = sorted(self._folder.glob("*.log"), key=lambda path: path.stat().st_mtime_ns)
        for each in by_age[:-MAX_KEPT_LOGS]:
            each.unlink(missing_ok=True)

    def path(self, engine: str) -> Path:
        """Return where an engine's log is, if it is kept."""
        return self._folder / f"{engine}.log"
