"""What a role that runs in the foreground logs: one line per event on standard error.

Names, ids and texts of errors come from elsewhere. Line breaks and terminal codes in them are made visible, so that
nobody can forge a line or move the cursor of who reads the log.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from harmonicio.core.hidden import without_secrets
from harmonicio.core.printable import printable

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class OneLine(logging.Formatter):
    """Formats an event as one printable line; only a traceback of our own has more."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(without_secrets(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"    {printable(line)}" for line in without_secrets(super().formatException(ei)).splitlines())


def start(level: str = "INFO") -> None:
    """Log everything from this level on; called once, by the command that runs a role."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(FORMAT))
    logging.basicConfig(level=level, handlers=[handler], force=True)
