"""One message to one outcome: the user's function with its state, inside the stream's plugins.

handler ──► plugins ──► what was emitted is safe ──► done
   │          └─────────────────┴── not now ───────► rejected: not_kept, which counts no attempt
   └──────────┴─────────────────┴──────────────────► failed

The slot is told when the handler has returned, where something follows: a store that hangs then is not the handler.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harmonicio.core.errors import StorageError
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.engine.handler import Handler
from harmonicio.engine.message import Emission
from harmonicio.engine.outputs import failure_of, outcome_of
from harmonicio.engine.parameters import bind
from harmonicio.engine.plugin import Call, EnginePlugin, NotKept
from harmonicio.engine.slots import Slot
from harmonicio.wire.outcomes import DONE

_log = logging.getLogger(__name__)

#: Makes emitted messages safe, given when their parent's handler returned; raises NotKept, or why the parent fails.
Deliver = Callable[[Sequence[Emission], float], None]


class Work:
    """What the engine does with each message; called by several threads where the stream has concurrency.

    Args:
        handler: Its setup is called here, once.
        parameters: The stream's, for the handler and its setup.
        plugins: The outermost first.
        deliver: For what the handler emits.

    Attributes:
        is_streaming: Whether the handler reads payloads while they arrive.

    Raises:
        ConfigurationError: the parameters are not those that handler and setup take.
        Exception: whatever the user's setup raises.
    """

    def __init__(
        self,
        handler: Handler,
        parameters: Mapping[str, Any],
        plugins: Sequence[EnginePlugin] = (),
        *,
        deliver: Deliver,
    ) -> None:
        self._handler = handler
        self.is_streaming = handler.is_streaming
        self._deliver = deliver
        self._plugins = tuple(plugins)
        self._is_closed = False
        self._state: Any = None
        function, setup = bind(handler, parameters)
        self._call: Call = function
        if setup is not None:
            self._state = setup()
            self._call = functools.partial(_call_with_state, function, self._state)

    def __repr__(self) -> str:
        return f"<Work {self._handler.origin}, {len(self._plugins)} plugins>"

    def run(self, message: Any, slot: Slot) -> tuple[Outcome, bytes]:
        """Return what became of the message, and its result as it will travel (empty when there is none).

        Args:
            slot: Has begun with this message.
        """
        call = self._through_plugins(slot) if self._plugins else self._call
        try:
            result = call(message)
            outcome, detail = (DONE, b"") if result is None else outcome_of(result)
            if message.has_emitted and outcome.kind is OutcomeKind.DONE:
                self._check_arrived(message)
                self._deliver(message.emitted, slot.handler_returned(slot.turn))
            return outcome, detail
        except NotKept as error:
            return Outcome.rejected(RejectReason.NOT_KEPT, str(error)), b""
        except BaseException as error:  # noqa: BLE001  whatever a handler raises, sys.exit() too, is this message's outcome
            return failure_of(error), b""
        finally:
            if self.is_streaming:
                message.payload_reader.close()

    def _through_plugins(self, slot: Slot) -> Call:
        call: Call = functools.partial(self._call_afresh, slot, slot.turn)
        for plugin in reversed(self._plugins):
            call = functools.partial(_call_plugin, plugin, call)
        return call

    def _call_afresh(self, slot: Slot, turn: int, message: Any) -> Any:
        """Have only that emitted which the handler's last call emitted, if it returned: a plugin may go on without."""
        message.forget_emitted()
        slot.handler_called(turn)
        try:
            result = self._call(message)
            self._check_arrived(message)
        except BaseException:
            message.forget_emitted()
            raise
        finally:
            slot.handler_returned(turn)
        return result

    def _check_arrived(self, message: Any) -> None:
        """A handler may return before it has read all; what it emitted must not leave on the word of damaged bytes.

        The rest is waited for in the handler's time: a slow source is not storage that is slow.
        """
        if self.is_streaming and message.has_emitted and not message.payload_reader.wait_until_arrived():
            raise StorageError("The payload did not arrive whole, so nothing of it is emitted.")

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


def _call_plugin(plugin: EnginePlugin, call: Call, message: Any) -> Any:
    return plugin.handle(message, call)
