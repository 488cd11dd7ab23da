"""Says what it got: the smallest engine. Copy this folder to begin one of your own."""

from __future__ import annotations

from typing import Any

from harmonicio.engine import Message, handler


@handler
def echo(message: Message) -> dict[str, Any]:
    """Return the size of the payload in bytes and the metadata, unchanged."""
    return {"size_bytes": message.payload.nbytes, "metadata": dict(message.metadata)}
