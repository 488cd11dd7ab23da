"""HASTE around a handler: the handler returns features, the message is scored, kept and recorded.

    handler ──features──► storage client ──► tier, feature row ──► {"score": …, "tier": …}

A handler that raises, or returns no features, leaves a message without a score: it is kept in the tier ``unscored``
with the reason, and is done; unless an earlier run was recorded, and has emitted what only another run that emits as
much can send. A tier or database that cannot be written now is no fault of the message, which is offered again after
pauses that grow, as long as that lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harmonicio.core.errors import ConfigurationError, HarmonicIOError, StorageError
from harmonicio.engine.message import Message
from harmonicio.engine.plugin import NotKept, PluginContext
from harmonicio.haste.feature_db.base import FeatureRow
from harmonicio.haste.storage_client import StorageClient


class EmittedLess(HarmonicIOError):
    """An earlier run of the handler was recorded, and emitted more than this one, which may still have to be sent."""

    code = "emitted_less"
    retryable = True


class HastePlugin:
    """Wraps the handler of one engine."""

    def __init__(self, storage: StorageClient, context: PluginContext) -> None:
        self._storage = storage
        self._context = context

    def __repr__(self) -> str:
        return f"<HastePlugin of {self._context.stream}: {self._storage!r}>"

    def handle(self, message: Message, call: Callable[[Message], Any]) -> dict[str, Any]:
        """Take the features of a message and keep it; return score, tier and features.

        Raises:
            NotKept: tier or database cannot be written now, or a plugin within says so of its own store.
            StorageError: nor ever, as it is.
            Conflict: its id is known with other bytes.
            EmittedLess: an earlier run emitted more, which may still have to be sent.
            Exception: the same, and the handler raised it.
        """
        features, reason, raised = _features(message, call)
        try:
            row = self._save(message, features, reason)
        except StorageError as error:
            if error.retryable:
                raise NotKept(error.text, hint=error.hint) from error
            raise
        emitted = len(message.emitted)
        if (row.emitted or 0) > emitted:
            raise raised or EmittedLess(
                f"An earlier run of the handler emitted {row.emitted} messages for this one, and this run {emitted}.",
                hint="A handler that is run again must emit the same again.",
            )
        return row.result

    def _save(self, message: Message, features: Mapping[str, Any], reason: str) -> FeatureRow:
        return self._storage.save(
            message.payload,
            features=features,
            metadata=message.metadata,
            message_id=message.id,
            stream=message.stream,
            attempt=message.attempt,
            stream_version=self._context.stream_version,
            engine=self._context.engine,
            image=self._context.image,
            route=message.route,
            emitted=len(message.emitted),
            unscored_because=reason,
        )

    def close(self) -> None:
        self._storage.close()


def create(options: Mapping[str, Any], context: PluginContext) -> HastePlugin:
    """Return the plugin for a stream's table ``plugins.haste``; feature rows go to the master unless it says otherwise.

    Raises:
        ConfigurationError: the table cannot be used, or the handler would leave no payload to keep.
    """
    if context.is_streaming:
        raise ConfigurationError(
            f"HASTE keeps whole payloads, and the handler of stream {context.stream!r} reads them while they arrive.",
            hint="Write @handler without streaming=True, or take the table plugins.haste out of the declaration.",
        )
    storage = StorageClient.from_options(options, client=context.control_client, default_feature_db="master")
    return HastePlugin(storage, context)


def _features(message: Message, call: Callable[[Message], Any]) -> tuple[Mapping[str, Any], str, Exception | None]:
    """Return what the handler found; and why there is nothing, if so, with what it raised."""
    try:
        returned = call(message)
    except NotKept:  # A plugin within cannot keep the message now: that says nothing of its features.
        raise
    except Exception as error:  # noqa: BLE001  whatever the handler raises is recorded with the message
        return {}, f"The handler raised {type(error).__name__}: {error}", error
    if not isinstance(returned, Mapping):
        return {}, f"The handler returned {type(returned).__name__} instead of features", None
    return returned, "", None
