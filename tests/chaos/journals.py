"""What sources and handlers write down while they run, one JSON line for each thing that they saw.

    source    {"sent": id, "stream": …, "digest": …}      before it is offered to the connector
              {"kept": id}                                `send` returned, so that it is in the spool
              {"safe": id, "how": "done" or "stored"}     the connector called it safe
              {"end": id, "state": …, "text": …}          its final outcome: processed, dead, shed, rejected, expired
    handler   {"handled": id, "digest": …, "attempt": …, "pid": …}
              {"returned": id}                            its handler came to the end

A line is one write to a file that is only appended to: a killed process leaves whole lines, and perhaps a last one
without its end, which does not count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Journal:
    """A journal that this process appends to; any thread may write."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def write(self, **what: Any) -> None:
        os.write(self._file, json.dumps(what).encode() + b"\n")


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what a journal says; nothing where there is none."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
