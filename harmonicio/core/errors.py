"""Every error of the product, in one tree.

    HarmonicIOError
    ├── InvalidInput            what the caller gave cannot be used (names, metadata, sizes, declarations)
    │   └── ConfigurationError  a setting is unknown, missing or has a value that cannot be used
    ├── NotAllowed              no token, a wrong one, or a role that may not do this
    ├── NotFound                the named stream, engine, worker or message does not exist
    ├── Conflict                the request contradicts what is already there
    ├── Unavailable             the other side cannot be reached or cannot take this now; try again
    │   ├── MasterUnavailable
    │   ├── EngineUnavailable
    │   └── BacklogFull
    ├── ProtocolError           bytes on a data connection that break the protocol
    │   ├── LocalProtocolError  our own code broke it: a bug here
    │   └── RemoteProtocolError the peer broke it: close the connection
    ├── ConnectionEnded         a data connection ended while it was still needed
    ├── DeliveryError           what became of a message, raised where its result was asked for
    │   ├── HandlerFailed       the handler raised; carries type, text and traceback
    │   ├── MessageRejected     the receiver did not take it; carries the reason
    │   ├── UndeliveredError    the connector closed with messages that are not safe; names the ids
    │   ├── OutcomeExpired      the master no longer knows the outcome
    │   └── OutcomeTimeout      the outcome did not arrive in the time given
    ├── StorageError            a store, tier or feature database failed
    └── ProgramFailed           a program that handles messages could not be started, or did not end with exit code 0

``code`` is stable and meant for programs, ``hint`` says what to do next, and ``retryable`` says whether the same
request may succeed later. Foreign exceptions are mapped to these once, at the border where they arise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class HarmonicIOError(Exception):
    """Base of every error that HarmonicIO raises on purpose.

    Args:
        text: One sentence that says what is wrong.
        hint: One sentence that says what to do next; empty when there is nothing to add.
    """

    code = "error"
    retryable = False

    def __init__(self, text: str, *, hint: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.text} {self.hint}".rstrip()


class InvalidInput(HarmonicIOError, ValueError):
    code = "invalid_input"


class ConfigurationError(InvalidInput):
    code = "configuration"


class NotAllowed(HarmonicIOError):
    code = "not_allowed"


class NotFound(HarmonicIOError):
    code = "not_found"


class Conflict(HarmonicIOError):
    code = "conflict"


class Unavailable(HarmonicIOError):
    """The other side cannot take this now.

    Args:
        retry_after_s: Seconds after which another attempt makes sense, where known.
    """

    code = "unavailable"
    retryable = True

    def __init__(self, text: str, *, hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(text, hint=hint)
        self.retry_after_s = retry_after_s


class MasterUnavailable(Unavailable):
    code = "master_unavailable"


class EngineUnavailable(Unavailable):
    code = "engine_unavailable"


class BacklogFull(Unavailable):
    code = "backlog_full"


class ProtocolError(HarmonicIOError):
    code = "protocol"


class LocalProtocolError(ProtocolError):
    code = "local_protocol"


class RemoteProtocolError(ProtocolError):
    code = "remote_protocol"


class ConnectionEnded(HarmonicIOError):
    code = "connection_ended"
    retryable = True


class DeliveryError(HarmonicIOError):
    """What became of one message, raised where its result was asked for."""

    code = "delivery"


class HandlerFailed(DeliveryError):
    """The handler raised for this message.

    Args:
        error_type: Name of the exception type in the engine.
        traceback: The engine's traceback as text.
    """

    code = "handler_failed"

    def __init__(self, text: str, *, error_type: str = "", traceback: str = "", hint: str = "") -> None:
        super().__init__(text, hint=hint)
        self.error_type = error_type
        self.traceback = traceback


class MessageRejected(DeliveryError):
    """The receiver did not take this message; ``reason`` is a :class:`~harmonicio.core.message.RejectReason`."""

    code = "rejected"

    def __init__(self, text: str, *, reason: str, hint: str = "") -> None:
        super().__init__(text, hint=hint)
        self.reason = reason


class UndeliveredError(DeliveryError):
    """The connector was closed while messages were not safe yet; ``message_ids`` names them."""

    code = "undelivered"

    def __init__(self, text: str, *, message_ids: Sequence[str], hint: str = "") -> None:
        super().__init__(text, hint=hint)
        self.message_ids = tuple(message_ids)


class OutcomeExpired(DeliveryError):
    code = "outcome_expired"


class OutcomeTimeout(DeliveryError):
    code = "outcome_timeout"
    retryable = True


class StorageError(HarmonicIOError):
    code = "storage"
    retryable = True


class ProgramFailed(HarmonicIOError):
    code = "program_failed"
    retryable = True


#: The kinds that one part passes on to another by their code. Whoever is told that the protocol was broken hears of a
#: peer that does not understand him.
PASSED_ON: Mapping[str, type[HarmonicIOError]] = {
    ProtocolError.code: RemoteProtocolError,
    **{
        kind.code: kind
        for kind in (
            InvalidInput,
            ConfigurationError,
            NotAllowed,
            NotFound,
            Conflict,
            Unavailable,
            MasterUnavailable,
            EngineUnavailable,
            BacklogFull,
            StorageError,
        )
    },
}
