"""One message to one outcome: the user's function with its state, inside the stream's plugins."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harmonicio.core.message import Outcome
from harmonicio.engine.handler import Handler
from harmonicio.engine.outputs import failure_of, outcome_of
from harmonicio.engine.plugin import EnginePlugin

_log = logging.getLogger(__name__)


class Work:
    """What the engine does with each message; called by several threads where the stream has concurrency.

    Args:
        handler: Its setup is called here, once.
        parameters: The stream's, for the setup.
        plugins: The outermost first.

    Raises:
        Exception: whatever the user's setup raises.
    """

    def __init__(self, handler: Handler, parameters: Mapping[str, Any], plugins: Sequence[EnginePlugin] = ()) -> None:
        self._handler = handler
        self._plugins = tuple(plugins)
        self._is_closed = False
        self._state: Any = None
        call: Callable[[Any], Any] = handler.function
        if handler.setup is not None:
            self._state = handler.setup(parameters)
            call = functools.partial(_call_with_state, handler.function, self._state)
        for plugin in reversed(self._plugins):
            call = functools.partial(_call_plugin, plugin, call)
        self._call = call

    def __repr__(self) -> str:
        return f"<Work {self._handler.origin}, {len(self._plugins)} plugins>"

    @property
    def is_streaming(self) -> bool:
        return self._handler.is_streaming

    def run(self, message: Any) -> tuple[Outcome, int]:
        """Return what became of the message, and the bytes of the outcome's detail (0 when not counted)."""
        try:
            return outcome_of(self._call(message))
        except BaseException as error:  # noqa: BLE001  whatever a handler raises, sys.exit() too, is this message's outcome
            return failure_of(error), 0
        finally:
            if self._handler.is_streaming:
                message.payload_reader.close()

    def close(self) -> None:
        """Close the plugins and tear down the handler; what goes wrong is logged."""
        if self._is_closed:
            return
        self._is_closed = True
        endings: list[Callable[[], Any]] = [plugin.close for plugin in self._plugins]
        if self._handler.teardown is not None:
            endings.append(functools.partial(self._handler.teardown, self._state))
        for end in endings:
            try:
                end()
            except Exception:  # noqa: BLE001  users' code; the rest must be ended all the same
                _log.exception("The engine's work did not end in order")


def _call_with_state(function: Callable[..., Any], state: Any, message: Any) -> Any:
    return function(message, state)


def _call_plugin(plugin: EnginePlugin, call: Callable[[Any], Any], message: Any) -> Any:
    return plugin.handle(message, call)
