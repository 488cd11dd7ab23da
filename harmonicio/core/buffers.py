"""What may be sent as a payload: anything with a contiguous buffer that holds values.

Read-only buffers are borrowed; writable ones are copied, unless the caller promises not to change them.
"""

from __future__ import annotations

import re
from typing import Any

from harmonicio.core.errors import InvalidInput

#: Names stand between colons in the format of a structured array.
_FIELD_NAME = re.compile(":[^:]*:")

Payload = bytes | memoryview


def buffer_payload(payload: Any, *, is_borrowed: bool = False) -> Payload:
    """Return the bytes of a payload, read-only and one-dimensional.

    Args:
        is_borrowed: The caller promises not to change a writable buffer, which is then not copied.

    Raises:
        InvalidInput: it has no buffer, or one that is not contiguous.
    """
    if type(payload) is bytes:
        return payload
    try:
        view = memoryview(payload)
    except (TypeError, BufferError, ValueError):
        raise InvalidInput(
            f"A {type(payload).__name__} cannot be sent.", hint="Send bytes, an array or another object with a buffer."
        ) from None
    if not view.c_contiguous:
        raise InvalidInput(
            "The payload's buffer is not contiguous.",
            hint="Send a contiguous copy, for example numpy.ascontiguousarray(array).",
        )
    if "O" in _FIELD_NAME.sub("", view.format):
        raise InvalidInput(
            "An array of Python objects cannot be sent: its memory holds addresses, not values.",
            hint="Convert it to an array of numbers or to bytes first.",
        )
    if view.nbytes == 0:
        return b""
    if not view.readonly and not is_borrowed:
        return view.tobytes()
    return _as_bytes(view)


def _as_bytes(view: memoryview) -> Payload:
    """Return the view byte by byte; only what Python cannot see so (a foreign byte order, fields) is copied."""
    try:
        return (view if view.format == "B" and view.ndim == 1 else view.cast("B")).toreadonly()
    except (TypeError, ValueError):
        return view.tobytes()
