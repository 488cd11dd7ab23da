"""The handler of drains: it does nothing, but not before a file is there."""

import time
from pathlib import Path

from harmonicio.engine import handler

_LOOK_EVERY_S = 0.002


_open_gates: set[str] = set()


@handler
def gated(message: object, *, gate: str) -> None:
    """Wait until ``gate`` exists; once it does, nothing is looked at any more."""
    while gate not in _open_gates:
        if Path(gate).exists():
            _open_gates.add(gate)
        else:
            time.sleep(_LOOK_EVERY_S)
