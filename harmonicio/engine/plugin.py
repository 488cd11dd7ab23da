"""Engine plugins: what stands around a handler, found by name so that the engine imports none of them.

    message ──► plugin ──call──► the next plugin … ──call──► handler
    result  ◄──        ◄────────                   ◄────────

A stream's declaration names its plugins with their options; the first one named is the outermost. A package brings a
plugin by an entry point in the group ``harmonicio.engine_plugins``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from harmonicio.control.client import MasterClient
from harmonicio.control.members import Family
from harmonicio.core.errors import StorageError

#: Each is a :data:`CreatePlugin`.
PLUGINS = Family(
    "engine plugin", "harmonicio.engine_plugins", {"haste": "harmonicio.haste.engine_plugin:create"}, extra="haste"
)

#: Hands a message on: to the next plugin, or to the handler, whose result it returns. It is the message that the plugin
#: was given, because what the handler emits is gathered on it, and leaves when the outermost plugin has returned.
Call = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class PluginContext:
    """Where a plugin works.

    Attributes:
        stream_version: Of the declaration that this engine was started with.
        control_client: Talks to the master as this engine; connects on first use. Closed by the engine.
        image: Digest of the container image that it runs in; empty without one.
        is_streaming: The handler reads payloads while they arrive: messages have a ``payload_reader``, no ``payload``.
    """

    stream: str
    stream_version: int
    engine: str
    control_client: MasterClient
    image: str = ""
    is_streaming: bool = False


class NotKept(StorageError):
    """What a message leaves behind cannot be kept now: a store of a plugin fails, or nobody takes what was emitted.

    That is no fault of the message: it counts no attempt, and is offered again after pauses that grow.
    """


class EnginePlugin(Protocol):
    """Stands around the handler of one engine; called by several threads where the stream has concurrency."""

    def handle(self, message: Any, call: Call) -> Any:
        """Return the result for the message, usually from what ``call(message)`` returns.

        What it raises is the message's failure, which counts an attempt; :class:`NotKept` counts none. The stream's
        ``timeout_s`` counts anew from when ``call`` is over, and is then at least 30 s: an engine whose plugin takes
        longer to keep a message is killed, which counts no attempt. What a plugin does before ``call`` counts as the
        handler's.

        ``call`` may be used from another thread, too. What is over only after ``handle`` has returned says nothing of
        the next message.
        """
        ...

    def close(self) -> None:
        """Give back what it holds. Called once, after the last message."""
        ...


#: Makes a plugin of the options in the stream's declaration.
CreatePlugin = Callable[[Mapping[str, Any], PluginContext], EnginePlugin]
