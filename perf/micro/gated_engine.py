"""The handler of drains: it does nothing, but not before a file is there."""

import time
from pathlib import Path

from harmonicio.engine import handler

_LOOK_EVERY_S = 0.002


@handler
def gated(message: object, *, gate: str) -> None:
    """Wait until ``gate`` exists."""
    while not Path(gate).exists():
        time.sleep(_LOOK_EVERY_S)
