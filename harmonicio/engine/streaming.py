"""Payloads that a handler reads while they arrive.

    receiving thread ── advance ──► Arrival ◄── wait_for ── PayloadReader ◄── the handler's thread
                     ── complete ─►
                     ── fail ─────►

The whole payload has room from the start (a buffer, or a file above the stream's limit), so a slow handler holds up
nobody, and going back in the payload is possible. The end is reached only when the whole payload is here and its
checksum is right; a connection that breaks before raises in the handler.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from harmonicio.core.errors import ConnectionEnded, HarmonicIOError, InvalidInput, StorageError
from harmonicio.core.message import Metadata
from harmonicio.engine.message import Parent

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK_BYTES = 1024**2


class Arrival:
    """How much of one payload is here.

    Args:
        view: Where the payload arrives, as long as it will be.
    """

    def __init__(self, view: memoryview) -> None:
        self._view: memoryview | None = view.toreadonly()
        self.size_bytes = len(view)
        self._changed = threading.Condition()
        self._received = 0
        self._is_complete = False
        self._error: HarmonicIOError | None = None
        self._when_over: Callable[[bool], None] | None = None

    def __repr__(self) -> str:
        return f"<Arrival: {self._received} of {self.size_bytes} bytes{', complete' if self._is_complete else ''}>"

    def advance(self, received_bytes: int) -> None:
        """Say how many bytes are here."""
        with self._changed:
            self._received = max(self._received, received_bytes)
            self._changed.notify_all()

    def complete(self, *, is_intact: bool) -> None:
        """Say that the whole payload is here, and whether its checksum is right."""
        with self._changed:
            self._received = self.size_bytes
            self._is_complete = True
            if not is_intact:
                self._error = StorageError("The payload was damaged on its way: its checksum does not match.")
            self._changed.notify_all()
        self._say_over()

    def fail(self, error: HarmonicIOError) -> None:
        """Say that the rest will not come."""
        with self._changed:
            if not self._is_complete:
                self._error = self._error or error
            self._changed.notify_all()
        self._say_over()

    def wait_for(self, position: int) -> int:
        """Wait for bytes beyond ``position``, or for the end; return how many bytes of the payload are here.

        Raises:
            HarmonicIOError: the payload will never be whole.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._error is not None or self._is_complete or position < self._received < self.size_bytes
            )
            if self._error is not None:
                raise self._error
            return self._received

    def when_over(self, act: Callable[[bool], None]) -> None:
        """Have ``act`` called once, with whether the payload is here and right, as soon as that is known: now, or by
        the thread that receives it."""
        with self._changed:
            self._when_over = act
        self._say_over()

    def _say_over(self) -> None:
        with self._changed:
            if self._error is None and not self._is_complete:
                return
            act, self._when_over = self._when_over, None
        if act is not None:
            act(self._error is None)

    def wait_until_over(self) -> bool:
        """Wait until the payload is here or never will be; return whether it is here and right."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._is_complete)
            return self._error is None

    def copy_into(self, target: memoryview, position: int) -> None:
        """Copy what is at ``position``; it must be here."""
        if self._view is None:
            raise ConnectionEnded("The payload is not kept after the handler has returned.")
        target[:] = self._view[position : position + len(target)]

    def close(self) -> None:
        """Let go of the buffer."""
        view, self._view = self._view, None
        if view is not None:
            view.release()


class PayloadReader(io.RawIOBase):
    """A readable, seekable file over one payload; reading waits for bytes that have not arrived.

    Raises from reading:
        ConnectionEnded: the connection broke; the message will be sent again, do not keep what was read.
        StorageError: the payload was damaged on its way; likewise.
    """

    def __init__(self, arrival: Arrival) -> None:
        super().__init__()
        self._arrival = arrival
        self._position = 0

    def __repr__(self) -> str:
        return f"<PayloadReader at {self._position}: {self._arrival!r}>"

    def close(self) -> None:
        """End reading; done for the handler when it returns."""
        super().close()
        self._arrival.close()

    def wait_until_arrived(self) -> bool:
        """Wait until the payload is here or never will be; return whether it is here and right."""
        return self._arrival.wait_until_over()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to another place; nothing is waited for until something is read there."""
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._arrival.size_bytes}
        if whence not in starts:
            raise InvalidInput(f"{whence!r} is no place to seek from.", hint="Use io.SEEK_SET, SEEK_CUR or SEEK_END.")
        start = starts[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill as much of ``buffer`` as is here, waiting for at least one byte; 0 means the end."""
        target = memoryview(buffer).cast("B")
        if not len(target):
            return 0
        here = self._arrival.wait_for(self._position)
        count = max(0, min(len(target), here - self._position))
        if count:
            self._arrival.copy_into(target[:count], self._position)
        self._position += count
        return count

    def chunks(self, size_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the rest of the payload in pieces of at most ``size_bytes``, as they arrive."""
        while chunk := self.read(size_bytes):
            yield chunk


class StreamingMessage(Parent):
    """What a handler with ``streaming=True`` gets: a message without its payload, and a reader for that.

    Args:
        section: Header section with the metadata, where that has not been read.
    """

    __slots__ = ("_payload_reader", "_size_bytes")

    def __init__(
        self,
        id: str,
        stream: str,
        size_bytes: int,
        payload_reader: PayloadReader,
        metadata: Metadata | None = None,
        priority: int = 0,
        attempt: int = 1,
        section: bytes = b"",
    ) -> None:
        super().__init__(id, stream, metadata, priority, attempt, section)
        self._size_bytes = size_bytes
        self._payload_reader = payload_reader

    def __repr__(self) -> str:
        return f"<StreamingMessage {self._id!r} of {self._stream!r}, {self._size_bytes} bytes, attempt {self._attempt}>"

    @property
    def size_bytes(self) -> int:
        """Length of the payload."""
        return self._size_bytes

    @property
    def payload_reader(self) -> PayloadReader:
        """Reads the payload; usable until the handler returns."""
        return self._payload_reader
