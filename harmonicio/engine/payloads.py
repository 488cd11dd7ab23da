"""Where payloads lie while the engine has them: kept buffers in memory, unlinked files above the stream's limit.

    take(size) ── up to memory_payload_max ──► waits for room in the byte budget ──► buffer of the pool, or a new one
               │                                        │ none for a second
               └─ above ────────────────────────────────┴──► file on the scratch volume, all blocks reserved, mapped

Nobody waits longer for room, because a connection that is not read from breaks (TCP_USER_TIMEOUT counts a window that
stays closed, too) although both ends are well, and because room may come only when what waits here has been taken: by
way of other engines that emit into this one.

A buffer is used again only when nobody holds a view of it any more. Releasing our own view does not notice a numpy
array over the same memory; a resize of the buffer does, by BufferError. A buffer that is still viewed is left to its
viewer and counted.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from collections import OrderedDict, deque
from typing import Protocol

from harmonicio.core.errors import ConnectionEnded, StorageError

#: Capacities come in eight steps for each doubling, so that at most an eighth is wasted.
_STEPS = 8
SMALLEST_CAPACITY = 64 * 1024
#: Buffers that nobody uses are kept up to this size together, and up to a quarter of the byte budget.
MAX_KEPT_BYTES = 128 * 1024**2
#: How long a payload waits for room in memory before it goes into a file.
ROOM_WITHIN_S = 1.0


class Payload(Protocol):
    """Memory for one payload."""

    @property
    def view(self) -> memoryview:
        """Exactly as long as the payload; writable where the payload has yet to come."""
        ...

    def release(self) -> None:
        """Give the memory back; called once, when neither connection nor handler need it."""
        ...


class PayloadStore:
    """Gives out memory for payloads.

    Args:
        budget_bytes: Payload bytes that may be in memory at the same time.
        memory_payload_max_bytes: Larger payloads go into a file.
        scratch_folder: For those files.
        room_within_s: A payload that finds no room in memory for so long goes into a file as well.

    Attributes:
        abandoned: How often a handler kept a view of a payload, so that its memory could not be used again.
    """

    def __init__(
        self,
        budget_bytes: int,
        memory_payload_max_bytes: int,
        scratch_folder: str,
        *,
        room_within_s: float = ROOM_WITHIN_S,
    ) -> None:
        self._room_within_s = room_within_s
        self._memory_payload_max_bytes = memory_payload_max_bytes
        self._scratch_folder = scratch_folder
        self._counting = threading.Lock()
        self.abandoned = 0
        self.budget = ByteBudget(budget_bytes)
        self.pool = BufferPool(min(MAX_KEPT_BYTES, budget_bytes // 4))

    def __repr__(self) -> str:
        return f"<PayloadStore: {self.budget!r}, {self.pool!r}, {self.abandoned} abandoned>"

    def take(self, size_bytes: int) -> Payload:
        """Return memory for a payload; waits a moment until the byte budget has room for it.

        Raises:
            StorageError: the scratch volume, or the machine's memory, has no room.
            ConnectionEnded: the engine ends.
        """
        is_large = size_bytes > self._memory_payload_max_bytes
        if is_large or not self.budget.acquire(size_bytes, self._room_within_s):
            return _FilePayload(self, size_bytes, self._scratch_folder)
        try:
            return _BufferPayload(self, self.pool.take(size_bytes), size_bytes)
        except MemoryError:
            self.budget.release(size_bytes)
            raise StorageError(f"The engine has no memory for a payload of {size_bytes} bytes.") from None

    def copy(self, small: memoryview) -> Payload:
        """Return a small payload in memory of its own, because its handler runs when the connection has gone on.

        Raises:
            StorageError, ConnectionEnded: as for :meth:`take`.
        """
        if self.budget.acquire(len(small), self._room_within_s):
            return _CopiedPayload(self, bytes(small))
        payload = _FilePayload(self, len(small), self._scratch_folder)
        payload.view[:] = small
        return payload

    def close(self) -> None:
        """Wake whoever waits for room, and forget the kept buffers."""
        self.budget.close()
        self.pool.clear()

    def count_abandoned(self) -> None:
        with self._counting:
            self.abandoned += 1


class _BufferPayload:
    """A payload in a buffer of the pool."""

    def __init__(self, store: PayloadStore, kept: bytearray, size_bytes: int) -> None:
        self._store = store
        self._kept = kept
        self._size_bytes = size_bytes
        self.view = memoryview(kept)[:size_bytes]

    def release(self) -> None:
        self.view.release()
        kept, self._kept = self._kept, bytearray()
        if is_unviewed(kept):
            self._store.pool.give_back(kept)
        else:
            self._store.count_abandoned()
        self._store.budget.release(self._size_bytes)


class _CopiedPayload:
    """A small payload in bytes of its own: whoever keeps a view of it keeps them, and harms nobody."""

    def __init__(self, store: PayloadStore, content: bytes) -> None:
        self._store = store
        self._size_bytes = len(content)
        self.view = memoryview(content)

    def release(self) -> None:
        self.view = memoryview(b"")
        self._store.budget.release(self._size_bytes)


class _FilePayload:
    """A payload in an unlinked file; its pages are the kernel's, not the engine's memory."""

    def __init__(self, store: PayloadStore, size_bytes: int, folder: str) -> None:
        self._store = store
        self._mapping = _map_new_file(folder, max(1, size_bytes))
        self.view = memoryview(self._mapping)[:size_bytes]

    def release(self) -> None:
        self.view.release()
        try:
            self._mapping.close()
        except BufferError:
            self._store.count_abandoned()  # The file goes with its last view.


def _map_new_file(folder: str, size_bytes: int) -> mmap.mmap:
    """Return a mapping of a new file that has no name, with every block reserved: writing to it cannot fail."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
            return mmap.mmap(file.fileno(), size_bytes)
    except (OSError, ValueError, OverflowError) as error:
        raise StorageError(
            f"The scratch folder {folder} cannot take a payload of {size_bytes} bytes: "
            f"{getattr(error, 'strerror', None) or error}.",
            hint="Give the scratch volume more room, or lower the stream's max_message_bytes.",
        ) from None


def is_unviewed(kept: bytearray) -> bool:
    """Try whether anybody holds a view of the buffer, by a resize that changes nothing."""
    try:
        kept.append(kept.pop())
    except BufferError:
        return False
    return True


class ByteBudget:
    """Bytes that may be held at the same time; whoever waits longest is served first.

    A payload larger than the whole budget is admitted when nothing else is held.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._room = threading.Condition(threading.Lock())
        self._waiting: deque[object] = deque()
        self._is_closed = False
        self.held_bytes = 0

    def __repr__(self) -> str:
        return f"<ByteBudget: {self.held_bytes} of {self._total_bytes} bytes, {len(self._waiting)} waiting>"

    def acquire(self, size_bytes: int, timeout_s: float | None = None) -> bool:
        """Wait for room and take it; return whether there was room in time.

        Raises:
            ConnectionEnded: the budget was closed.
        """
        with self._room:
            if (self._waiting or not self._has_room(size_bytes)) and not self._wait(size_bytes, timeout_s):
                return False
            self.held_bytes += size_bytes
            return True

    def release(self, size_bytes: int) -> None:
        with self._room:
            self.held_bytes -= size_bytes
            if self._waiting:
                self._room.notify_all()

    def close(self) -> None:
        """End every wait, now and later."""
        with self._room:
            self._is_closed = True
            self._room.notify_all()

    def _has_room(self, size_bytes: int) -> bool:
        return self.held_bytes == 0 or self.held_bytes + size_bytes <= self._total_bytes

    def _wait(self, size_bytes: int, timeout_s: float | None) -> bool:
        turn = object()
        self._waiting.append(turn)
        try:
            has_room = self._room.wait_for(
                lambda: self._is_closed or (self._waiting[0] is turn and self._has_room(size_bytes)), timeout_s
            )
            if self._is_closed:
                raise ConnectionEnded("The engine ends.")
            return has_room
        finally:
            self._waiting.remove(turn)
            self._room.notify_all()


class BufferPool:
    """Buffers that were used and will be used again: memory that the process has touched already.

    Args:
        max_kept_bytes: Of buffers that nobody uses at the moment; beyond, those of the size that was not asked for
            the longest go first.
    """

    def __init__(self, max_kept_bytes: int) -> None:
        self._max_kept_bytes = max_kept_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, list[bytearray]] = OrderedDict()
        self.kept_bytes = 0

    def __repr__(self) -> str:
        return f"<BufferPool: {self.kept_bytes} bytes kept>"

    def take(self, size_bytes: int) -> bytearray:
        """Return a buffer that holds at least ``size_bytes``, the one used last if there are several."""
        capacity = capacity_for(size_bytes)
        with self._lock:
            kept = self._kept.get(capacity)
            if kept:
                self.kept_bytes -= capacity
                return kept.pop()
        return bytearray(capacity)

    def give_back(self, buffer: bytearray) -> None:
        """Keep a buffer that nobody views."""
        capacity = len(buffer)
        if capacity > self._max_kept_bytes:
            return
        with self._lock:
            self._kept.setdefault(capacity, []).append(buffer)
            self._kept.move_to_end(capacity)
            self.kept_bytes += capacity
            while self.kept_bytes > self._max_kept_bytes:
                oldest, buffers = next(iter(self._kept.items()))
                if buffers:
                    buffers.pop(0)
                    self.kept_bytes -= oldest
                if not buffers:
                    del self._kept[oldest]

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self.kept_bytes = 0


def capacity_for(size_bytes: int) -> int:
    """Return the capacity of the buffers that hold payloads of this size."""
    if size_bytes <= SMALLEST_CAPACITY:
        return SMALLEST_CAPACITY
    step = 1 << max(0, (size_bytes - 1).bit_length() - 1 - (_STEPS.bit_length() - 1))
    return -(-size_bytes // step) * step
