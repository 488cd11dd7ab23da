"""The optional checksum behind a payload: xxh3-64 where both ends have it, else crc32."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from harmonicio.wire.frames import TRAILER, Flag

#: In the order in which this side prefers them. The package is imported when they are offered or chosen, not before.
SUPPORTED: tuple[str, ...] = ("crc32",) if find_spec("xxhash") is None else ("xxh3", "crc32")

FLAG_OF = {"": Flag.NONE, "xxh3": Flag.CHECKSUM_XXH3, "crc32": Flag.CHECKSUM_CRC32}


def offered() -> tuple[str, ...]:
    """Return what this side can compute, and be ready to: later it may have no file descriptor left for an import."""
    if "xxh3" in SUPPORTED:
        _xxhash()
    return SUPPORTED


def choose(names: Sequence[str]) -> str:
    """Return the first of the other side's checksums that this side can compute, or an empty text."""
    ours = offered() if names else ()
    return next((name for name in names if name in ours), "")


def trailer(flags: int, payload: memoryview | bytes) -> bytes:
    """Return the 8 bytes that follow ``payload`` under the checksum that ``flags`` names.

    Raises:
        ValueError: the flags name a checksum that this side cannot compute.
    """
    if flags & Flag.CHECKSUM_XXH3:
        return TRAILER.pack(_xxh3(payload))
    return TRAILER.pack(zlib.crc32(payload))


class RunningChecksum:
    """The checksum of a payload that comes in pieces.

    Raises:
        ValueError: the flags name a checksum that this side cannot compute.
    """

    __slots__ = ("_crc32", "_xxh3")

    def __init__(self, flags: int) -> None:
        if flags & Flag.CHECKSUM_XXH3 and "xxh3" not in SUPPORTED:
            raise ValueError("xxh3")
        self._xxh3 = _xxhash().xxh3_64() if flags & Flag.CHECKSUM_XXH3 else None
        self._crc32 = 0

    def update(self, piece: memoryview | bytes) -> None:
        """Take the next piece in."""
        if self._xxh3 is not None:
            self._xxh3.update(piece)
        else:
            self._crc32 = zlib.crc32(piece, self._crc32)

    def trailer(self) -> bytes:
        """Return the 8 bytes that follow the payload."""
        return TRAILER.pack(self._crc32 if self._xxh3 is None else self._xxh3.intdigest())


def _xxh3(payload: memoryview | bytes) -> int:
    if "xxh3" not in SUPPORTED:
        raise ValueError("xxh3")
    number: int = _xxhash().xxh3_64_intdigest(payload)
    return number


@cache
def _xxhash() -> Any:
    return import_module("xxhash")
