"""A payload that is read while it is sent: as much of it as is in memory at a time.

read_next ──► piece, in the caller's memory ──take──► what is written: the piece, and the trailer behind the last
    ▲                                                      │
    └──────────────── not finished, and it is written ◄────┘
"""

from __future__ import annotations

from harmonicio.stream_connector.lanes import Parcel
from harmonicio.stream_connector.sources import PieceReader
from harmonicio.wire.checksum import RunningChecksum


class Pieces:
    """How far a parcel's payload has been read.

    Args:
        checksum_flag: Of the trailer that the other side expects, 0 for none.
    """

    __slots__ = ("_checksum", "_offset", "_piece", "_reader", "parcel")

    def __init__(self, parcel: Parcel, reader: PieceReader, checksum_flag: int) -> None:
        self.parcel = parcel
        self._reader = reader
        self._offset = 0
        self._checksum = RunningChecksum(checksum_flag) if checksum_flag else None
        self._piece = memoryview(b"")

    def __repr__(self) -> str:
        return f"<Pieces: {self._offset} of {self._reader.size_bytes} bytes read>"

    @property
    def is_finished(self) -> bool:
        return self._offset == self._reader.size_bytes

    def read_next(self, memory: memoryview) -> None:
        """Read the next piece, as far as there is memory for it.

        Raises:
            InvalidInput: it cannot be read.
        """
        parcel = self.parcel
        self._piece = memory[: self._reader.read_into(memory, self._offset)]
        self._offset += len(self._piece)
        parcel.is_readable = True
        if self.is_finished:
            parcel.absences = 0

    def take(self) -> list[memoryview]:
        """Return what is to be written of the piece that was read last, and behind it."""
        piece, self._piece = self._piece, memoryview(b"")
        if self._checksum is None:
            return [piece]
        self._checksum.update(piece)
        return [piece, memoryview(self._checksum.trailer())] if self.is_finished else [piece]
