"""Memory for payloads that is used again: fresh memory costs more than all else that is done with a payload.

A page that a process touches for the first time is fetched from the kernel and cleared, one after the other: for each
megabyte that takes longer than to receive it. So payloads lie in *slabs*, which stay for a while. A slab is cut into
blocks of one size; whoever takes a block gets a view of it, and passes it on and slices it as any buffer:

      take ──► view of a block, slices of it … ──the last one is gone──► free ──► take
                                                                          └ a whole slab, unused for a
                                                                            minute ──► the kernel has it back

Rules:

- A block is free when no view of it is left, and not before: nobody has to say so, and nobody can say so too early.
- What is mapped is at most twice what was in use at the same time, and ``spare_bytes``. What does not fit in that, and
  what is small, is ordinary memory. Of a slab that nobody has taken from for a minute, the kernel has its free pages.
- Payloads only, and never for a user's code: a finalizer that brought a view back would see the block's next content.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
import time
import weakref
from collections import deque
from contextlib import suppress

#: Smaller payloads are ordinary memory, which is not fetched anew for each.
SMALLEST_BYTES = 64 * 1024
#: A slab has so many bytes, or one block where that is larger.
SLAB_BYTES = 8 * 1024**2
SPARE_BYTES = 64 * 1024**2
#: Who sends in bursts shall find it again.
KEPT_S = 60.0


class _Slab:
    """Blocks of one size that lie side by side. ``blocks`` watches those that are in use."""

    def __init__(self, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.count = max(1, SLAB_BYTES // block_bytes)
        self.mapping = mmap.mmap(-1, self.count * block_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.kind = ctypes.c_ubyte * block_bytes
        self.blocks: dict[int, weakref.ref[ctypes.Array[ctypes.c_ubyte]]] = {}
        self.used_at = 0.0

    def rest(self) -> None:
        """Give the pages of free blocks back; a block that is taken again has new ones."""
        if self.block_bytes % mmap.PAGESIZE == 0:
            for number in set(range(self.count)) - self.blocks.keys():
                self.mapping.madvise(mmap.MADV_DONTNEED, number * self.block_bytes, self.block_bytes)

    def __repr__(self) -> str:
        return f"<_Slab of {self.count} blocks of {self.block_bytes} bytes, {len(self.blocks)} in use>"


class PayloadMemory:
    """Gives out memory for payloads. Every method may be called from any thread."""

    def __init__(self, spare_bytes: int = SPARE_BYTES) -> None:
        self._spare_bytes = spare_bytes
        self._lock = threading.Lock()
        self._slabs: set[_Slab] = set()
        #: Free blocks by their size. What was used last goes first: it may still be in the processor's cache.
        self._free: dict[int, list[tuple[_Slab, int]]] = {}
        #: Blocks whose last view has gone. Whoever drops it may hold any lock, so it is only noted here.
        self._returned: deque[tuple[_Slab, int]] = deque()
        self.mapped_bytes = 0
        self._used_bytes = 0

    def __repr__(self) -> str:
        return f"<PayloadMemory: {self.used_bytes} of {self.mapped_bytes} bytes in use>"

    @property
    def used_bytes(self) -> int:
        """Bytes of the blocks that somebody has a view of."""
        with self._lock:
            self._sort_returned()
            return self._used_bytes

    def take(self, size_bytes: int) -> memoryview:
        """Return so many writable bytes, of whatever content. Raises MemoryError and OSError."""
        if size_bytes <= SMALLEST_BYTES:
            return memoryview(bytearray(size_bytes))
        block_bytes = block_bytes_of(size_bytes)
        with self._lock:
            self._sort_returned()
            free = self._free.get(block_bytes) or self._map(block_bytes)
            if not free:
                return memoryview(bytearray(size_bytes))
            slab, number = free[-1]
            view = self._view(slab, number)
            free.pop()
            return view[:size_bytes]

    def _view(self, slab: _Slab, number: int) -> memoryview:
        """Return a view of a free block. Each slice of it holds on to ``block``, by whose end it is noticed."""
        block = slab.kind.from_buffer(slab.mapping, number * slab.block_bytes)
        returned = self._returned
        slab.blocks[number] = weakref.ref(block, lambda _: returned.append((slab, number)))
        slab.used_at = time.monotonic()
        self._used_bytes += slab.block_bytes
        return memoryview(block).cast("B")

    def _sort_returned(self) -> None:
        while self._returned:
            slab, number = self._returned.popleft()
            del slab.blocks[number]
            self._used_bytes -= slab.block_bytes
            self._free.setdefault(slab.block_bytes, []).append((slab, number))

    def _map(self, block_bytes: int) -> list[tuple[_Slab, int]]:
        """Return the free blocks of a new slab; none where that would be too much."""
        slab_bytes = max(1, SLAB_BYTES // block_bytes) * block_bytes
        most = 2 * (self._used_bytes + block_bytes) + self._spare_bytes
        if self.mapped_bytes + slab_bytes > most:
            self._unmap([slab for slab in self._slabs if not slab.blocks])
        if self.mapped_bytes + slab_bytes > most:
            return []
        try:
            slab = _Slab(block_bytes)
        except OSError:  # No more can be mapped: ordinary memory may still be had.
            return []
        self._slabs.add(slab)
        self.mapped_bytes += slab_bytes
        free = self._free.setdefault(block_bytes, [])
        free.extend((slab, number) for number in reversed(range(slab.count)))
        return free

    def rest(self, unused_for_s: float = KEPT_S) -> None:
        """Give back what nobody uses, and nobody has taken for so long; called every few seconds."""
        with self._lock:
            self._sort_returned()
            before = time.monotonic() - unused_for_s
            resting = [slab for slab in self._slabs if slab.used_at <= before]
            self._unmap([slab for slab in resting if not slab.blocks])
            for slab in resting:
                if slab.blocks:
                    slab.rest()

    def _unmap(self, slabs: list[_Slab]) -> None:
        """Give slabs of free blocks back."""
        gone = set(slabs)
        for block_bytes in {slab.block_bytes for slab in slabs}:
            kept = [item for item in self._free[block_bytes] if item[0] not in gone]
            if kept:
                self._free[block_bytes] = kept
            else:
                del self._free[block_bytes]
        for slab in slabs:
            self._slabs.remove(slab)
            self.mapped_bytes -= slab.count * slab.block_bytes
            with suppress(BufferError):  # The end of a view was noticed, and is not over: the mapping goes with it.
                slab.mapping.close()


def block_bytes_of(size_bytes: int) -> int:
    """Return the size of the block for a payload: at most an eighth larger, so that few sizes serve all."""
    step = max(mmap.PAGESIZE, 1 << (size_bytes.bit_length() - 4))
    return -(-size_bytes // step) * step
