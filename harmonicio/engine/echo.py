"""The handler of ``harmonicio up`` when it is given none: it says what it got."""

from __future__ import annotations

from typing import Any

from harmonicio.engine import handler
from harmonicio.engine.message import Message


@handler
def echo(message: Message) -> dict[str, Any]:
    """Return the size of the payload in bytes, and the metadata."""
    return {"size_bytes": len(message.payload), "metadata": dict(message.metadata)}
