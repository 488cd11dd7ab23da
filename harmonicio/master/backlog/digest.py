"""What tells two payloads apart, and a damaged one from a whole one.

    1 byte       8 bytes        8 bytes (xxh3-64) or 4 bytes (crc32)
    algorithm    size in bytes  checksum

It guards against mistakes and disks, not against malice. Digests of different algorithms (a library was installed or
removed between two runs) are compared by size alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from struct import Struct

try:
    from xxhash import xxh3_64, xxh3_64_digest
except ImportError:
    HAS_XXH3 = False
else:
    HAS_XXH3 = True

Buffer = bytes | bytearray | memoryview

_SIZE = Struct("!Q")
_CRC32, _XXH3 = b"c", b"x"
_HEAD_LENGTH = 1 + _SIZE.size


def digest_of(payload: Buffer) -> bytes:
    """Return the digest of ``payload`` under the fastest algorithm that is installed."""
    size = _SIZE.pack(len(payload))
    if not HAS_XXH3:
        return _CRC32 + size + zlib.crc32(payload).to_bytes(4, "big")
    return _XXH3 + size + xxh3_64_digest(payload)


def is_same(one: bytes, other: bytes) -> bool:
    """Whether two digests may be of the same payload."""
    if not one or not other:
        return True
    if one[:1] != other[:1]:
        return one[1:_HEAD_LENGTH] == other[1:_HEAD_LENGTH]
    return one == other


def is_intact(chunks: Iterable[Buffer], digest: bytes) -> bool:
    """Whether ``chunks`` make up the payload that ``digest`` was made of, as far as this host can tell."""
    if not digest:
        return True
    if digest[:1] == _XXH3 and not HAS_XXH3:
        return _SIZE.pack(sum(len(chunk) for chunk in chunks)) == digest[1:_HEAD_LENGTH]
    return _digest_of_chunks(digest[:1], chunks) == digest


def _digest_of_chunks(algorithm: bytes, chunks: Iterable[Buffer]) -> bytes:
    size_bytes = crc = 0
    hasher = xxh3_64() if algorithm == _XXH3 else None
    for chunk in chunks:
        size_bytes += len(chunk)
        if hasher is None:
            crc = zlib.crc32(chunk, crc)
        else:
            hasher.update(chunk)
    return algorithm + _SIZE.pack(size_bytes) + (crc.to_bytes(4, "big") if hasher is None else hasher.digest())
