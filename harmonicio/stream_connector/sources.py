"""What a source application may send besides buffers: what is read piece by piece, like a file."""

from __future__ import annotations

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Protocol

from harmonicio.core.buffers import Payload
from harmonicio.core.errors import InvalidInput

#: A file of at most this size is read at once, where a spool has it, or many are open: they need no descriptors then.
SMALL_FILE_BYTES = 1024**2
#: A file of at most this size always is. Memory for a larger one would be new, which costs more than to send it.
SMALLEST_FILE_BYTES = 64 * 1024
#: So many files of a process stay open for their turn; of those that are small, no more.
MAX_OPEN_FILES = 256


class PayloadAway(InvalidInput):
    """A payload cannot be read now, and perhaps later: its share is away, or the disk has not given it back."""


class PiecewisePayload(ABC):
    """A payload that is read piece by piece when its turn comes."""

    __slots__ = ()

    size_bytes: int

    @abstractmethod
    def reader(self) -> PieceReader:
        """Return what reads it.

        Raises:
            PayloadAway: it cannot be read now.
            InvalidInput: it is not any more what was sent.
        """


class PieceReader(Protocol):
    """Reads a payload, as often as it must be sent."""

    size_bytes: int

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Read a piece that starts at ``offset``; return its length, which is at most that of the buffer.

        Raises:
            PayloadAway: it cannot be read now.
            InvalidInput: it has changed.
        """
        ...


class FileSource(PiecewisePayload):
    """The content of a file, read where it is needed. The file is closed when nobody holds this any more.

    It must stay as it was when this was made: else its last piece cannot be read, so that nobody gets a mixture.

    Raises:
        PayloadAway: the file cannot be read now.
        InvalidInput: it is something else than a file.
    """

    __slots__ = ("_descriptor", "changed_ns", "path", "size_bytes")

    #: The descriptors of all of them.
    open_descriptors: ClassVar[set[int]] = set()

    def __init__(self, path: Path | str) -> None:
        self.path = os.fspath(path)
        self._descriptor = -1
        try:
            # Without waiting for somebody who writes, should it be a named pipe.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            self.open_descriptors.add(self._descriptor)
            status = os.fstat(self._descriptor)
            self.size_bytes, self.changed_ns = status.st_size, status.st_mtime_ns
            is_longer = stat.S_ISREG(status.st_mode) and os.pread(self._descriptor, 1, self.size_bytes)
        except (OSError, ValueError) as error:
            raise PayloadAway(f"The file {self.path} cannot be sent: {_reason(error)}.") from None
        if not stat.S_ISREG(status.st_mode):  # It has no length of its own: its content would be taken for empty.
            kind = "It is a folder" if stat.S_ISDIR(status.st_mode) else "It is not a regular file"
            raise InvalidInput(f"The file {self.path} cannot be sent: {kind}.")
        if is_longer:
            text = "It holds more than its size says; perhaps somebody writes it"
            raise PayloadAway(f"The file {self.path} cannot be sent: {text}.")

    def __repr__(self) -> str:
        return f"<FileSource {self.path}, {self.size_bytes} bytes>"

    def reader(self) -> FileSource:
        return self

    def read_into(self, buffer: memoryview, offset: int) -> int:
        wanted = buffer[: min(len(buffer), self.size_bytes - offset)]
        try:
            count = os.preadv(self._descriptor, [wanted], offset)
            status = os.fstat(self._descriptor) if offset + count == self.size_bytes else None
        except OSError as error:
            raise PayloadAway(f"The file {self.path} cannot be read any more: {_reason(error)}.") from None
        if count == 0:
            raise InvalidInput(
                f"The file {self.path} became shorter than its {self.size_bytes} bytes while it was sent."
            )
        if status is not None and (status.st_size, status.st_mtime_ns) != (self.size_bytes, self.changed_ns):
            raise InvalidInput(
                f"The file {self.path} changed while it was sent.", hint="Send it when nobody writes it any more."
            )
        return count

    def __del__(self) -> None:
        if self._descriptor >= 0:
            self.open_descriptors.discard(self._descriptor)  # First: its number is another's as soon as it is closed.
            os.close(self._descriptor)


def identity_of(path: Path | str) -> str:
    """Return a message id for a file: the same as long as its full name, its size and its last change are.

    Two files that differ have the same one only if both their full names (on two hosts, say) and times are the same:
    then the second is refused, because an id stands for one content.

    Raises:
        InvalidInput: nothing can be said of the file.
    """
    try:
        status = os.stat(path)
        name = os.fsencode(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"The file {path} cannot be sent: {_reason(error)}.") from None
    told = b"%d %d %s" % (status.st_size, status.st_mtime_ns, name)
    return f"file-{hashlib.blake2b(told, digest_size=16).hexdigest()}"


def file_payload(path: Path | str, *, is_spooled: bool = False) -> Payload | FileSource:
    """Return the content of a file as it is sent: small ones as bytes, others open.

    Args:
        is_spooled: Whether what is small goes into a spool: then the file need not stay.

    Raises:
        InvalidInput: the file cannot be read.
    """
    source = FileSource(path)
    may_stay_open = not is_spooled and len(FileSource.open_descriptors) <= MAX_OPEN_FILES
    read_at_once_bytes = SMALLEST_FILE_BYTES if may_stay_open else SMALL_FILE_BYTES
    return source if source.size_bytes > read_at_once_bytes else read_whole(source)


def read_whole(source: PieceReader) -> memoryview:
    """Return all of a small payload.

    Raises:
        InvalidInput: it cannot be read.
    """
    content = memoryview(bytearray(source.size_bytes))
    filled = 0
    while filled < source.size_bytes:
        filled += source.read_into(content[filled:], filled)
    return content.toreadonly()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
