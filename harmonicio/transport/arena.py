"""Shared memory of one host: the sender of messages writes into it, receivers see it and cannot change it.

    the sender's end                                       a receiver's end
    Arena: memfd, sealed, mapped to write ──descriptor──►  ArenaView: seals looked at, mapped to read

The seals keep a sender from making the file shorter, which would end a receiver that reads, and receivers from writing.
Pages are taken when they are used.

A piece of it may be used again only when nobody has a view of it any more. Who can tell (:meth:`_Mapped.is_free`)?

    array, slice, cast ──► managed buffer, one for each piece, held by its views alone ──► mapping ◄── ndarray(buffer=…)

So nobody has, when the managed buffer is held once, and the mapping by nobody but the pieces. What holds the mapping
itself, as an array made with ``buffer=`` does, cannot be told from others: then no piece is free until it has gone. For
the same reason a mapping is never closed: it ends with the last that holds it. Each is tried out when it is made.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import mmap
import os
import sys
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)

#: A receiver maps no larger one.
MAX_ARENA_BYTES = 64 * 1024**3
#: Between copies of so much other threads have their turn; a copy itself keeps the interpreter to itself.
_COPY_AT_ONCE_BYTES = 1024**2
_SEAL_SEAL, _SEAL_SHRINK, _SEAL_GROW, _SEAL_FUTURE_WRITE = 0x1, 0x2, 0x4, 0x10
_ADD_SEALS, _GET_SEALS = 1033, 1034


class _Mapped:
    """Memory that is mapped once, and given out in pieces."""

    def __init__(self, descriptor: int, size_bytes: int, prot: int) -> None:
        self._lock = threading.Lock()
        self._pieces = 0
        self._mapping: mmap.mmap | None = mmap.mmap(descriptor, size_bytes, prot=prot)
        # It has been nobody's argument: where frames are evaluated by others (PEP 523), the caller would hold it still.
        self._held_by_us = sys.getrefcount(self._mapping)
        if not self._tells_who_holds_it():
            self._mapping = None
            raise OSError("this interpreter does not tell who looks at shared memory")

    def _tells_who_holds_it(self) -> bool:
        """Try out whether somebody who holds the mapping is noticed, and nobody when there is none."""
        assert self._mapping is not None
        piece = self.piece(0, 1)
        holder = memoryview(self._mapping)
        is_noticed = not self.is_free(piece)
        holder.release()
        del holder
        return is_noticed and self.is_free(piece)

    def piece(self, offset: int, size_bytes: int) -> memoryview:
        """Return a piece of it, of which others are given slices, until :meth:`is_free`."""
        with self._lock:
            assert self._mapping is not None, "it is not closed"
            self._pieces += 1
            return memoryview(self._mapping)[offset : offset + size_bytes]

    def is_viewed(self, piece: memoryview) -> bool:
        """Whether somebody has a view of this piece, or of a part of it, or may have one."""
        with self._lock:
            return _holds(piece) > _ALONE or sys.getrefcount(self._mapping) > self._held_by_us + self._pieces

    def is_free(self, piece: memoryview) -> bool:
        """Whether nobody has a view of this piece any more, or of a part of it; then the piece is let go of."""
        with self._lock:
            if _holds(piece) > _ALONE or sys.getrefcount(self._mapping) > self._held_by_us + self._pieces:
                return False
            piece.release()
            self._pieces -= 1
            return True

    def let_go(self) -> None:
        """Use it no more; whoever has a view still has it."""
        with self._lock:
            self._mapping = None


class Arena(_Mapped):
    """The sender's end.

    Args:
        size_bytes: A multiple of the page.

    Attributes:
        descriptor: What receivers are handed; with it nobody can write.

    Raises:
        OSError: there is no shared memory to be had, or nobody could tell who looks at it.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.descriptor = -1
        self.descriptor = os.memfd_create("harmonicio-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, size_bytes)
            fcntl.fcntl(self.descriptor, _ADD_SEALS, _SEAL_SHRINK | _SEAL_GROW)
            super().__init__(self.descriptor, size_bytes, mmap.PROT_READ | mmap.PROT_WRITE)
            self._bar_writing()
        except BaseException:
            os.close(self.descriptor)
            self.descriptor = -1
            raise

    def __repr__(self) -> str:
        return f"<Arena of {self.size_bytes} bytes>"

    def __del__(self) -> None:
        if self.descriptor >= 0:  # Its owner was not closed.
            os.close(self.descriptor)

    def _bar_writing(self) -> None:
        """Nobody else maps it to write: by a seal, or where there is none (before Linux 5.1) by what is handed out."""
        try:
            fcntl.fcntl(self.descriptor, _ADD_SEALS, _SEAL_FUTURE_WRITE | _SEAL_SEAL)
        except OSError:
            fcntl.fcntl(self.descriptor, _ADD_SEALS, _SEAL_SEAL)
            only_to_read = os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
            os.close(self.descriptor)
            self.descriptor = only_to_read

    def write(self, offset: int, payload: bytes | memoryview) -> bool:
        """Copy a payload into it; return whether that was done, which it is not when it has just been closed."""
        mapping, length = self._mapping, len(payload)
        if mapping is None:
            return False
        if length <= _COPY_AT_ONCE_BYTES:
            mapping[offset : offset + length] = payload
            return True
        del mapping
        content = memoryview(payload)

        def copy_into(piece: memoryview, at: int) -> int:
            piece[:] = content[at : at + len(piece)]
            return len(piece)

        return self.fill(offset, length, copy_into)

    def fill(self, offset: int, size_bytes: int, read_into: Callable[[memoryview, int], int]) -> bool:
        """Have a payload read into it; return whether that was done, which it is not when it has just been closed.

        Args:
            read_into: Reads what follows so many bytes into a buffer; returns how much that was. What it raises is
                raised.
        """
        with self._lock:
            if self._mapping is None:
                return False
            self._pieces += 1
            piece = memoryview(self._mapping)[offset : offset + size_bytes]
        try:
            filled = 0
            while filled < size_bytes:
                filled += read_into(piece[filled : filled + _COPY_AT_ONCE_BYTES], filled)
        finally:
            with self._lock:
                piece.release()
                self._pieces -= 1
        return True

    def close(self) -> None:
        """Hand it out no more. The memory goes when nobody maps it any more, views of it here included."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            self.let_go()


class ArenaView(_Mapped):
    """A receiver's end.

    Args:
        descriptor: Closed here, whatever comes of it.
        size_bytes: What the sender says it has.

    Raises:
        OSError: it is no sealed shared memory of that size, or cannot be mapped, or nobody could tell who
            looks at it.
    """

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        try:
            self.size_bytes = size_bytes
            seals = fcntl.fcntl(descriptor, _GET_SEALS)
            if not seals & _SEAL_SHRINK:
                raise OSError("the shared memory could become shorter while it is read")
            if not seals & _SEAL_FUTURE_WRITE and _can_bar_writing():
                raise OSError("the shared memory could be written by others than its source")
            if not 0 < size_bytes <= min(MAX_ARENA_BYTES, os.fstat(descriptor).st_size):
                raise OSError(f"the shared memory does not have {size_bytes} bytes")
            super().__init__(descriptor, size_bytes, mmap.PROT_READ)
        finally:
            os.close(descriptor)

    def __repr__(self) -> str:
        return f"<ArenaView of {self.size_bytes} bytes>"


def _can_bar_writing() -> bool:
    """Whether the kernel has the seal that bars writing."""
    descriptor = os.memfd_create("harmonicio-seals", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        fcntl.fcntl(descriptor, _ADD_SEALS, _SEAL_FUTURE_WRITE)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _holds(piece: memoryview) -> int:
    """Return how often the managed buffer behind a view is held."""
    return sys.getrefcount(gc.get_referents(piece)[0])


def _holds_alone() -> int:
    """Return what :func:`_holds` says of a view that is alone; 0 where it does not tell views from none."""
    if sys.implementation.name != "cpython" or not hasattr(os, "memfd_create"):
        return 0
    piece = memoryview(bytearray(8))[2:6]
    alone = _holds(piece)
    others = [piece[1:], piece.toreadonly(), piece.cast("H")]
    seen = _holds(piece)
    del others
    is_telling = seen == alone + 3 and _holds(piece) == alone and len(gc.get_referents(piece)) == 1
    return alone if is_telling else 0


_ALONE = _holds_alone()
#: Whether this interpreter and this system have what arenas need.
IS_SUPPORTED = _ALONE > 0
