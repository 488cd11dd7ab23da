"""What a source application may send: anything with a buffer, or a file.

Read-only buffers are borrowed until the message is safe; writable ones are copied, unless the caller promises not to
change them. A file is mapped, so that it is never in memory as a whole.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

from harmonicio.core.errors import InvalidInput


def payload_view(payload: Any, *, borrow: bool) -> memoryview:
    """Return the bytes of a payload, read-only and one-dimensional.

    Raises:
        InvalidInput: it has no buffer, or one that is not contiguous.
    """
    try:
        view = memoryview(payload)
    except TypeError:
        raise InvalidInput(
            f"A {type(payload).__name__} cannot be sent.", hint="Send bytes, an array or another object with a buffer."
        ) from None
    if not view.c_contiguous:
        raise InvalidInput(
            "The payload's buffer is not contiguous.",
            hint="Send a contiguous copy, for example numpy.ascontiguousarray.",
        )
    if not view.readonly and not borrow:
        return memoryview(view.tobytes())
    if view.nbytes == 0:
        return memoryview(b"")
    return (view if view.format == "B" and view.ndim == 1 else view.cast("B")).toreadonly()


def file_view(path: Path | str) -> memoryview:
    """Return the bytes of a file, mapped.

    Raises:
        InvalidInput: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(f"The file {path} cannot be sent: {reason}.") from None
    mapped.madvise(mmap.MADV_SEQUENTIAL)
    return memoryview(mapped)
