"""What a handler returned, or raised, as the outcome that crosses the wire."""

from __future__ import annotations

import traceback
from typing import Any

from harmonicio.core.errors import InvalidInput
from harmonicio.core.hidden import without_secrets
from harmonicio.core.message import MAX_RESULT_BYTES, Failure, Outcome, OutcomeKind
from harmonicio.wire.codec import pack_value
from harmonicio.wire.outcomes import DONE

_STORE_IT = "Store it (a file, a tier, a database) and return where it is."


def outcome_of(result: Any) -> tuple[Outcome, bytes]:
    """Return the outcome of a handler that returned, and its result as it will travel.

    It is packed here, once: the handler's next call may change the object that this one returned. A result that cannot
    travel is a failure that no further attempt can mend.
    """
    if result is None:
        return DONE, b""
    try:
        detail = pack_value(result)
    except InvalidInput as error:
        kind = type(result).__name__
        return _unusable(
            f"The handler returned something of the type {kind} that cannot be sent: {error.text} {error.hint}"
        ), b""
    if len(detail) > MAX_RESULT_BYTES:
        return _unusable(f"The handler's result has {len(detail)} bytes; at most {MAX_RESULT_BYTES} can be sent."), b""
    return Outcome(OutcomeKind.DONE, result=result), detail


def failure_of(error: BaseException) -> Outcome:
    """Return the outcome of a handler that raised; what is too long for the wire is cut there.

    Where a store cannot be reached, its address with a password is often in the text: that is hidden.
    Another attempt is worth while unless the exception says ``retryable = False``, as
    :class:`~harmonicio.core.errors.InvalidInput` does.
    """
    is_retryable = not isinstance(error, InvalidInput) and getattr(error, "retryable", True) is not False
    text, frames = without_secrets(_text_of(error)), without_secrets(_traceback_of(error))
    failure = Failure(type(error).__name__, text, frames, is_retryable)
    return Outcome(OutcomeKind.FAILED, failure=failure)


def _unusable(text: str) -> Outcome:
    return Outcome(OutcomeKind.FAILED, failure=Failure("InvalidResult", f"{text} {_STORE_IT}", "", retryable=False))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001  a user's __str__ may do anything
        return f"(its text cannot be shown: {type(broken).__name__})"


def _traceback_of(error: BaseException) -> str:
    """Return the traceback from the user's own frames on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith("harmonicio.engine."):
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except Exception as broken:  # noqa: BLE001  a user's __str__ may do anything
        return f"(the traceback cannot be shown: {type(broken).__name__})"
