"""What a source application may send: anything with a buffer, or a file.

Read-only buffers are borrowed until the message is safe; writable ones are copied, unless the caller promises not to
change them. Of a file only a piece at a time is in memory.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from harmonicio.core.errors import InvalidInput

#: A file of at most this size is read at once: that is faster, and a thousand of them need no thousand descriptors.
SMALL_FILE_BYTES = 1024**2

#: Names stand between colons in the format of a structured array.
_FIELD_NAME = re.compile(":[^:]*:")

Payload = bytes | memoryview


class FileSource:
    """The content of a file, read where it is needed. The file is closed when nobody holds this any more.

    Raises:
        InvalidInput: the file cannot be read.
    """

    __slots__ = ("_descriptor", "path", "size_bytes")

    def __init__(self, path: Path | str) -> None:
        self.path = os.fspath(path)
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.size_bytes = os.fstat(self._descriptor).st_size
            os.pread(self._descriptor, 1, 0)
        except (OSError, ValueError) as error:
            raise InvalidInput(f"The file {self.path} cannot be sent: {_reason(error)}.") from None

    def __repr__(self) -> str:
        return f"<FileSource {self.path}, {self.size_bytes} bytes>"

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Read a piece that starts at ``offset``; return its length, which is at most that of the buffer.

        Raises:
            InvalidInput: the file has become shorter, or it cannot be read any more.
        """
        wanted = buffer[: min(len(buffer), self.size_bytes - offset)]
        try:
            count = os.preadv(self._descriptor, [wanted], offset)
        except OSError as error:
            raise InvalidInput(f"The file {self.path} cannot be read any more: {_reason(error)}.") from None
        if count == 0:
            raise InvalidInput(
                f"The file {self.path} became shorter than its {self.size_bytes} bytes while it was sent."
            )
        return count

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


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


def file_payload(path: Path | str) -> Payload | FileSource:
    """Return the content of a file as it is sent.

    Raises:
        InvalidInput: the file cannot be read.
    """
    source = FileSource(path)
    if source.size_bytes > SMALL_FILE_BYTES:
        return source
    content = memoryview(bytearray(source.size_bytes))
    filled = 0
    while filled < source.size_bytes:
        filled += source.read_into(content[filled:], filled)
    return content.toreadonly()


def _as_bytes(view: memoryview) -> Payload:
    """Return the view byte by byte; only what Python cannot see so (a foreign byte order, fields) is copied."""
    try:
        return (view if view.format == "B" and view.ndim == 1 else view.cast("B")).toreadonly()
    except (TypeError, ValueError):
        return view.tobytes()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
