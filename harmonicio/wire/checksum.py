"""The optional checksum behind a payload: xxh3-64 where both ends have it, else crc32."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from harmonicio.wire.frames import TRAILER, Flag

try:
    from xxhash import xxh3_64_intdigest
except ImportError:
    xxh3_64_intdigest = None  # type: ignore[assignment]

#: In the order in which this side prefers them.
SUPPORTED: tuple[str, ...] = ("crc32",) if xxh3_64_intdigest is None else ("xxh3", "crc32")

FLAG_OF = {"": Flag.NONE, "xxh3": Flag.CHECKSUM_XXH3, "crc32": Flag.CHECKSUM_CRC32}


def choose(offered: Sequence[str]) -> str:
    """Return the first offered checksum that this side can compute, or an empty text."""
    return next((name for name in offered if name in SUPPORTED), "")


def trailer(flags: int, payload: memoryview | bytes) -> bytes:
    """Return the 8 bytes that follow ``payload`` under the checksum that ``flags`` names.

    Raises:
        ValueError: the flags name a checksum that this side cannot compute.
    """
    if flags & Flag.CHECKSUM_XXH3:
        if xxh3_64_intdigest is None:
            raise ValueError("xxh3")
        return TRAILER.pack(xxh3_64_intdigest(payload))
    return TRAILER.pack(zlib.crc32(payload))
