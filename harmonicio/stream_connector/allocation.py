"""Memory for one message that its source writes in place, and which payloads may be copied by this process itself.

allocate ──► writable ──send──► the message's ──► free when it is safe and nobody looks at it any more
                 └──release, end of the block, nobody has it──► free
"""

from __future__ import annotations

import array
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from harmonicio.core.errors import HarmonicIOError, InvalidInput
from harmonicio.stream_connector.arena_slots import ArenaSlot, ArenaSlots
from harmonicio.stream_connector.delivery import Delivery

_PLAIN = (bytes, bytearray, array.array)
_MAX_BASES = 16
#: What is left of an allocation: whoever reads or writes it is told that it was released.
_NOTHING = memoryview(bytearray())
_NOTHING.release()


class Allocation:
    """Memory for one message; made by :meth:`StreamConnector.allocate`.

    It is sent like any payload, once, and belongs to the message from then on: nobody may write into it any more.
    Use it as a context manager, and it is given back at the end of the block unless it was sent.

    Attributes:
        view: Where the message is written: a writable memoryview, of which ``numpy.frombuffer`` makes an array.
        size_bytes: Its length.
        is_shared: Whether it is in shared memory; what finds no room there is ordinary memory.
    """

    __slots__ = ("_claim", "_slot", "is_shared", "size_bytes", "view")

    def __init__(self, slots: ArenaSlots, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._slot = slot = slots.take(size_bytes, is_written_in_place=True) if size_bytes else None
        self.is_shared = slot is not None
        piece = None if slot is None else slot.piece
        self.view = memoryview(bytearray(size_bytes)) if piece is None else piece[:]
        #: Whoever has taken this out may send it or give it back: of several threads, one.
        self._claim = [True]

    def __repr__(self) -> str:
        return f"<Allocation of {self.size_bytes} bytes{'' if self._claim else ', sent or given back'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give it back unsent; after it was sent, this does nothing."""
        try:
            self._claim.pop()
        except IndexError:
            return
        self._end()

    def send_by(self, send: Callable[[memoryview, ArenaSlot | None], Delivery]) -> Delivery:
        """Have its content sent; then it is the message's, unless ``send`` has refused it.

        Raises:
            InvalidInput: it was sent or given back before, or is just being sent.
        """
        try:
            claim = self._claim.pop()
        except IndexError:
            raise InvalidInput(
                "This allocation was sent or given back already.", hint="Allocate one for each message."
            ) from None
        try:
            delivery = send(self.view.toreadonly(), self._slot)
        except HarmonicIOError:
            self._claim.append(claim)
            raise
        except BaseException:  # It may have been taken in, so nobody may write there any more.
            self._end()
            raise
        self._end()
        return delivery

    def _end(self) -> None:
        self._slot = None
        view, self.view = self.view, _NOTHING  # Also a view that was released would hold the slot.
        try:
            view.release()
        except BufferError:
            return  # Something of the source's looks at it still: that holds the slot, too.


def is_plain_memory(payload: Any) -> bool:
    """Whether a payload is memory of this process, so that to read it cannot fail.

    A file that is mapped can become shorter, and whoever reads beyond its end is killed; the kernel only says an error.
    """
    owner: Any = payload
    for _ in range(_MAX_BASES):
        if type(owner) in _PLAIN:
            return True
        if isinstance(owner, memoryview):
            owner = owner.obj
            continue
        base = getattr(owner, "base", owner)  # An array of numpy that looks into another has that as its base.
        if base is owner:
            return False
        if base is None:
            return bool(getattr(getattr(owner, "flags", None), "owndata", False))
        owner = base
    return False
