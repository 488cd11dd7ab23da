"""What a runtime keeps of an engine to find it again: the file ``engine.json`` in the engine's folder.

The engine itself cannot reach it where it runs in a container; whose process it is stands beside it in any case.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, TypeVar

from harmonicio.control import json_codec
from harmonicio.core.errors import HarmonicIOError

_log = logging.getLogger(__name__)

MARK_NAME = "engine.json"

Mark = TypeVar("Mark")


def write_mark(folder: Path, mark: Any) -> None:
    """Write a record into an engine's folder, whole or not at all."""
    draft = folder / f"{MARK_NAME}.new"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(json_codec.dumps(mark))
    draft.replace(folder / MARK_NAME)


def read_mark(folder: Path, kind: type[Mark]) -> Mark | None:
    """Return the record in an engine's folder; ``None`` when there is none of this kind."""
    try:
        return json_codec.loads(kind, (folder / MARK_NAME).read_bytes())
    except (OSError, HarmonicIOError) as error:
        _log.debug("There is no engine's mark in %s: %s", folder, error)
        return None
